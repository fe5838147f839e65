"""Domain events: what happened to an account, published through the outbox."""

from dataclasses import dataclass
from typing import Any

from app.domain.model import Account, Entry, Hold, Transaction, account_data, hold_data
from shared.http.views import optional_members
from shared.ids import rfc3339


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """Something that happened to an account; `type` is the event type of the contract (shared/events.py)."""

    type: str
    account_id: str
    data: dict[str, Any]


def account_event(type_: str, account: Account) -> DomainEvent:
    """Return an event with the account as it is now."""
    return DomainEvent(type_, account.id, account_data(account))


def hold_event(type_: str, hold: Hold) -> DomainEvent:
    """Return an event with the hold as it is now."""
    return DomainEvent(type_, hold.account_id, hold_data(hold))


def entry_posted(entry: Entry, counterparty: str, transaction: Transaction) -> DomainEvent:
    """Return the event of a posted entry; `counterparty` is the account of the transaction's other entry."""
    data = {
        "transaction_id": transaction.id,
        "type": transaction.type,
        "account_id": entry.account_id,
        "counterparty": counterparty,
        "amount": entry.amount,
        "currency": transaction.currency,
        "seq": entry.seq,
        "balance_after": entry.balance_after,
        "reference": transaction.reference,
        "reverses": transaction.reverses,
        "created_at": rfc3339(transaction.created_at),
        **optional_members(transaction),
    }
    return DomainEvent("bank.entry.posted", entry.account_id, data)


def transaction_refused(code: str, transaction: Transaction, account_id: str) -> DomainEvent:
    """Return the event of a refused transaction, for the account whose owner requested it."""
    is_debit = account_id == transaction.from_account
    data = {
        "transaction_id": transaction.id,
        "type": transaction.type,
        "code": code,
        "account_id": account_id,
        "counterparty": transaction.to_account if is_debit else transaction.from_account,
        "amount": transaction.amount,
        "currency": transaction.currency,
        "reference": transaction.reference,
        "created_at": rfc3339(transaction.created_at),
        "direction": "debit" if is_debit else "credit",
        **optional_members(transaction),
    }
    return DomainEvent("bank.transaction.refused", account_id, data)
