"""Operations of transaction-service: one function each."""

from .change_webhook import change_webhook as change_webhook
from .create_webhook import create_webhook as create_webhook
from .delete_webhook import delete_webhook as delete_webhook
from .get_statement import get_statement as get_statement
from .get_transaction import get_transaction as get_transaction
from .get_webhook import get_webhook as get_webhook
from .list_deliveries import list_deliveries as list_deliveries
from .list_flags import list_flags as list_flags
from .list_transactions import list_transactions as list_transactions
from .list_webhooks import list_webhooks as list_webhooks
from .reconciliation import reconciliation as reconciliation
