"""SQL that writes the history and the flags, and clears the history before a rebuild."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.projection import Projection
from app.domain.entry_check import Key, StoredEntry
from app.fraud import Finding
from app.models import accounts, checkpoints, entries, flags, inbox, transactions
from shared.db.database import bulk_insert_new, is_postgres

# In the order in which consumers and the reconciler lock them, to avoid deadlocks.
_PROJECTION = (transactions, accounts, entries, checkpoints, inbox.positions)


async def add(connection: AsyncConnection, projection: Projection) -> set[str]:
    """Insert rows that do not exist yet, in key order to avoid deadlocks; return the ids of new accounts."""
    await bulk_insert_new(connection, transactions, _in_order(projection.transactions))
    new_accounts = await bulk_insert_new(connection, accounts, _in_order(projection.accounts))
    await bulk_insert_new(connection, entries, _in_order(projection.entries))
    return {row.id for row in new_accounts}


def _in_order(rows: Mapping[Any, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [rows[key] for key in sorted(rows)]


async def add_flags(connection: AsyncConnection, findings: Iterable[Finding], now: datetime) -> set[str]:
    """Insert findings that do not exist yet; return their ids."""
    rows = [
        {
            "id": finding.event_id,
            "transaction_id": finding.transaction_id,
            "account_id": finding.account_id,
            "rule": finding.rule,
            "occurrence": finding.dedup_key,
            "score": finding.score,
            "action": finding.action,
            "created_at": now,
        }
        for finding in findings
    ]
    return {row.id for row in await bulk_insert_new(connection, flags, rows)}


async def stored_entries(connection: AsyncConnection, keys: Collection[Key]) -> dict[Key, StoredEntry]:
    """Return the entries with these keys."""
    columns = (*entries.primary_key.columns, entries.c.seq, entries.c.amount, entries.c.balance_after)
    statement = select(*columns).where(tuple_(*entries.primary_key.columns).in_(sorted(keys)))
    return {(row[0], row[1]): StoredEntry(*row[2:]) for row in await connection.execute(statement)} if keys else {}


async def clear(connection: AsyncConnection, *, keep_refusals: bool) -> None:
    """Delete the history and the consumed positions; flags are kept, and refusals if wanted."""
    emptied = list(_PROJECTION)
    if keep_refusals:
        await connection.execute(delete(transactions).where(transactions.c.status == "posted"))
        await connection.execute(delete(entries).where(entries.c.seq.is_not(None)))
        emptied = [table for table in emptied if table not in (transactions, entries)]
    if is_postgres(connection):
        names = ", ".join(table.name for table in emptied)
        await connection.execute(text(f"TRUNCATE {names}"))  # names of models, never input
        return
    for table in emptied:
        await connection.execute(delete(table))
