"""Compares posted transactions with their events in the outbox, whichever release posted them.

Transaction and events are written in one database transaction, so a reader of the transaction finds its events in the
outbox afterwards, unless the release that posted it wrote none, or wrong ones.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.model import Transaction
from app.models import outbox, transactions

# Under load only the newest transactions are compared: a fault shows in some of them.
_MAX_TRANSACTIONS = 200
_MAX_ROWS = 2000
# A release may write an outbox row with another time than the transaction.
_TOLERANCE = timedelta(seconds=1)
_COLUMNS = [transactions.c[name] for name in Transaction.__dataclass_fields__]


async def newest_transaction(connection: AsyncConnection) -> str:
    """Return the id of the newest transaction; empty without any."""
    newest = select(transactions.c.id).order_by(transactions.c.id.desc()).limit(1)
    return await connection.scalar(newest) or ""


async def compare_newest(connection: AsyncConnection, after: str) -> tuple[Mapping[str, int], str]:
    """Compare the newest transactions after an id; return the mismatches by kind, and the id of the newest one."""
    newest_first = select(*_COLUMNS).order_by(transactions.c.id.desc()).limit(_MAX_TRANSACTIONS)
    if after:
        newest_first = newest_first.where(transactions.c.id > after)
    found = [Transaction(*row) for row in await connection.execute(newest_first)]
    if not found:
        return {}, after
    events, complete_from = await _events(connection, found)
    comparable = [one for one in found if complete_from is None or one.created_at > complete_from]
    kinds = (mismatch(one, events.get(one.id, ())) for one in comparable)
    return Counter(kind for kind in kinds if kind is not None), found[0].id


def mismatch(transaction: Transaction, events: Iterable[Mapping[str, Any]]) -> str | None:
    """Return `missing` without events of its entries, `different` if they are wrong, None if they are right."""
    found = list(events)
    if not found:
        return "missing"
    expected = {(transaction.from_account, -transaction.amount), (transaction.to_account, transaction.amount)}
    entries = [(data.get("account_id"), data.get("amount")) for data in found]
    same = all(data.get(name) == getattr(transaction, name) for data in found for name in ("type", "currency"))
    return None if same and len(entries) == len(expected) and set(entries) == expected else "different"


async def _events(
    connection: AsyncConnection, found: Sequence[Transaction]
) -> tuple[Mapping[str, list[Mapping[str, Any]]], Any]:
    """Return the data of entries' events by transaction, and the time from which they are complete (None: all)."""
    rows = outbox.rows
    last = await connection.scalar(select(func.max(rows.c.id))) or 0
    older = select(rows.c.created_at).where(rows.c.id <= last - _MAX_ROWS).order_by(rows.c.id.desc()).limit(1)
    first = await connection.scalar(older)
    times = [one.created_at for one in found]
    recent = select(rows.c.events).where(
        rows.c.id > last - _MAX_ROWS,
        rows.c.created_at.between(min(times) - _TOLERANCE, max(times) + _TOLERANCE),
    )
    by_transaction: dict[str, list[Mapping[str, Any]]] = {}
    for row in await connection.execute(recent):
        for event in orjson.loads(row.events):
            if event["type"] == "bank.entry.posted":
                by_transaction.setdefault(event["data"].get("transaction_id", ""), []).append(event["data"])
    return by_transaction, first + _TOLERANCE if first else None
