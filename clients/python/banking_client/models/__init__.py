"""Contains all the data models used in inputs/outputs"""

from .account_page import AccountPage
from .account_view import AccountView
from .audit_entry_view import AuditEntryView
from .audit_page import AuditPage
from .balance_view import BalanceView
from .batch_body import BatchBody
from .batch_item_body import BatchItemBody
from .batch_result_view import BatchResultView
from .batch_result_view_problem_type_0 import BatchResultViewProblemType0
from .batch_view import BatchView
from .capture_body import CaptureBody
from .consistency_view import ConsistencyView
from .entry_view import EntryView
from .extension_body import ExtensionBody
from .flag_page import FlagPage
from .flag_view import FlagView
from .group_body import GroupBody
from .group_reversal_body import GroupReversalBody
from .group_view import GroupView
from .history_entry_view import HistoryEntryView
from .history_transaction_view import HistoryTransactionView
from .hold_body import HoldBody
from .hold_change_view import HoldChangeView
from .hold_detail_view import HoldDetailView
from .hold_page import HoldPage
from .hold_view import HoldView
from .limits_body import LimitsBody
from .line_view import LineView
from .metadata import Metadata
from .mismatch_view import MismatchView
from .money_body import MoneyBody
from .open_account_body import OpenAccountBody
from .proof_view import ProofView
from .reconciliation_view import ReconciliationView
from .reversal_body import ReversalBody
from .root_page import RootPage
from .root_view import RootView
from .statement_view import StatementView
from .transaction_page import TransactionPage
from .transaction_view import TransactionView
from .transfer_body import TransferBody
from .watermark_view import WatermarkView
from .webhook_body import WebhookBody
from .webhook_change_body import WebhookChangeBody
from .webhook_delivery_page import WebhookDeliveryPage
from .webhook_delivery_view import WebhookDeliveryView
from .webhook_page import WebhookPage
from .webhook_view import WebhookView

__all__ = (
    "AccountPage",
    "AccountView",
    "AuditEntryView",
    "AuditPage",
    "BalanceView",
    "BatchBody",
    "BatchItemBody",
    "BatchResultView",
    "BatchResultViewProblemType0",
    "BatchView",
    "CaptureBody",
    "ConsistencyView",
    "EntryView",
    "ExtensionBody",
    "FlagPage",
    "FlagView",
    "GroupBody",
    "GroupReversalBody",
    "GroupView",
    "HistoryEntryView",
    "HistoryTransactionView",
    "HoldBody",
    "HoldChangeView",
    "HoldDetailView",
    "HoldPage",
    "HoldView",
    "LimitsBody",
    "LineView",
    "Metadata",
    "MismatchView",
    "MoneyBody",
    "OpenAccountBody",
    "ProofView",
    "ReconciliationView",
    "ReversalBody",
    "RootPage",
    "RootView",
    "StatementView",
    "TransactionPage",
    "TransactionView",
    "TransferBody",
    "WatermarkView",
    "WebhookBody",
    "WebhookChangeBody",
    "WebhookDeliveryPage",
    "WebhookDeliveryView",
    "WebhookPage",
    "WebhookView",
)
