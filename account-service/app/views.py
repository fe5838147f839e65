"""What clients are shown of what a request came to."""

from typing import Any

from app.book import AccountIs, Book, HoldIs, Posted, account_data, hold_data
from shared.auth import Caller
from shared.ids import rfc3339


def view_of(outcome: Posted | AccountIs | HoldIs, book: Book, caller: Caller) -> dict[str, Any]:
    """Return the body that answers a request which was carried out."""
    if isinstance(outcome, Posted):
        return _transaction_view(outcome, book, caller)
    if isinstance(outcome, AccountIs):
        return account_data(outcome.account)
    view = hold_data(outcome.hold)
    if outcome.captured is not None:
        view["transaction"] = _transaction_view(outcome.captured, book, caller)
    return view


def _transaction_view(posted: Posted, book: Book, caller: Caller) -> dict[str, Any]:
    """Show a transaction; the balance of somebody else's account is nobody's business."""
    transaction = posted.transaction
    return {
        "id": transaction.id,
        "type": transaction.type,
        "status": "posted",
        "amount": transaction.amount,
        "currency": transaction.currency,
        "from_account": transaction.from_account,
        "to_account": transaction.to_account,
        "reference": transaction.reference,
        "reverses": transaction.reverses,
        "entries": [
            {
                "account_id": entry.account_id,
                "amount": entry.amount,
                "seq": entry.seq if visible else None,
                "balance_after": entry.balance_after if visible else None,
            }
            for entry in posted.entries
            for visible in (caller.may_see(book.accounts[entry.account_id].owner),)
        ],
        "created_at": rfc3339(transaction.created_at),
    }
