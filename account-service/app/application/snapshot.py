"""The ledger as events, for consumers that cannot read them from the outbox any more (shared/messaging/snapshot.py).

The events are those of all customers' accounts and of all entries, without ids and traces of the originals. Refused
transactions are not in the ledger; status changes and holds are left out, because no consumer needs them.
"""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import events
from app.domain.model import Account
from app.storage import repository
from app.storage.snapshot import PostedEntry, posted_entries
from shared.events import Event, new_event

_LIMIT = 1000
_MAX_SEQ = 2**63 - 1
_ACCOUNTS, _ENTRIES = "accounts", "entries"


async def read_page(connection: AsyncConnection, cursor: str, limit: int = _LIMIT) -> tuple[list[Event], str | None]:
    """Return the events after a cursor and the next cursor: first those of accounts, then those of entries.

    A page has entries of one account, or all entries of several ones, so that consumers which read the neighbours of
    new entries read few of them. Raises ValueError for an invalid cursor.
    """
    kind, *keys = cursor.split("/") if cursor else (_ACCOUNTS,)
    if kind == _ACCOUNTS and len(keys) <= 1:
        after = str(uuid.UUID(keys[0])) if keys else None
        accounts = await repository.customer_accounts(connection, None, after, limit)
        following = f"{_ACCOUNTS}/{accounts[-1].id}" if len(accounts) == limit else _ENTRIES
        return [_opened(account) for account in accounts], following
    if kind != _ENTRIES or len(keys) not in (0, 2):
        raise ValueError("unknown cursor")
    last = (str(uuid.UUID(keys[0])), int(keys[1])) if keys else None
    found = await posted_entries(connection, last, limit)
    page = whole_accounts(found, limit, last[0] if last else None)
    events_of_page = [_posted(item) for item in page]
    # What is posted from now on has a position after the snapshot's. So an account is left at its end and the snapshot
    # ends with a page that is not full; otherwise a busy bank's would never end.
    if len(page) < len(found):
        return events_of_page, f"{_ENTRIES}/{page[-1].entry.account_id}/{_MAX_SEQ}"
    if len(found) == limit:
        return events_of_page, f"{_ENTRIES}/{page[-1].entry.account_id}/{page[-1].entry.seq}"
    return events_of_page, None


def whole_accounts(found: Sequence[PostedEntry], limit: int, last_account: str | None) -> Sequence[PostedEntry]:
    """Return the first of the entries: of one account if it may have others, else all entries of several accounts.

    `last_account` is the account of the last entry of the previous page; `found` has `limit` entries unless they are
    the last ones.
    """
    if not found:
        return found
    first, last = found[0].entry.account_id, found[-1].entry.account_id
    if first == last or (first != last_account and len(found) < limit):
        return found
    if first == last_account:
        return list(takewhile(lambda item: item.entry.account_id == first, found))
    return list(takewhile(lambda item: item.entry.account_id != last, found))


def _opened(account: Account) -> Event:
    as_opened = replace(
        account, status="active", balance=0, held=0, seq=0, overdraft_limit=None, daily_debit_limit=None
    )
    event = events.account_event("bank.account.opened", as_opened)
    return new_event(
        source="account-service",
        type_=event.type,
        subject=event.account_id,
        time=account.created_at,
        data=event.data,
        event_id=account.id,
    )


def _posted(item: PostedEntry) -> Event:
    event = events.entry_posted(item.entry, item.counterparty, item.transaction)
    return new_event(
        source="account-service",
        type_=event.type,
        subject=event.account_id,
        time=item.transaction.created_at,
        data=event.data,
        event_id=f"{item.entry.account_id}/{item.entry.seq}",
        request_id=item.request_id,
        actor=item.subject,
    )
