"""What clients are shown of what a request came to."""

from typing import Any

from app.book import AccountIs, Book, HoldIs, Posted, account_data, hold_data
from shared.http.auth import Caller
from shared.http.views import transaction_view


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
    visible = [(entry, caller.may_see(book.accounts[entry.account_id].owner)) for entry in posted.entries]
    return transaction_view(posted.transaction, "posted", visible)
