"""SQL that reads the entries for the fraud rules."""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from zlib import crc32

from sqlalchemy import ColumnElement, Select, Table, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.fraud import VELOCITY, Entry, LookbackWindow, Thresholds
from app.models import accounts, entries, flags, transactions
from shared.db.database import any_of, is_postgres

# The name is part of the key, which replicas of earlier releases lock as well.
_EVALUATION_LOCK = crc32(b"transaction-service/assessment")


def _one_of(connection: AsyncConnection, table: Table, column: str, parameter: str = "ids") -> ColumnElement[bool]:
    return any_of(connection.dialect.name, table.c[column], parameter)


async def lock_evaluation(connection: AsyncConnection) -> None:
    """Wait until no other replica evaluates: two that do not see each other's entries could both miss a finding."""
    if is_postgres(connection):
        await connection.execute(select(func.pg_advisory_xact_lock(_EVALUATION_LOCK)))


def _posted() -> Select[Any]:
    """Select posted entries of customers; accounts without an `opened` event are the bank's own."""
    columns = (
        entries.c.account_id,
        entries.c.transaction_id,
        transactions.c.type,
        entries.c.seq,
        entries.c.amount,
        transactions.c.currency,
        entries.c.created_at,
    )
    return (
        select(*columns)
        .join(transactions, transactions.c.id == entries.c.transaction_id)
        .join(accounts, accounts.c.id == entries.c.account_id)
        .where(entries.c.seq.is_not(None))
    )


async def all_entries(connection: AsyncConnection, account_ids: Collection[str]) -> list[Entry]:
    """Return all posted entries of the accounts."""
    if not account_ids:
        return []
    statement = _posted().where(_one_of(connection, entries, "account_id"))
    return [Entry(*row) for row in await connection.execute(statement, {"ids": sorted(account_ids)})]


async def entries_between(
    connection: AsyncConnection, account_ids: Collection[str], first: datetime, last: datetime
) -> list[Entry]:
    """Return the posted entries of customers among the accounts from `first` to `last`, both inclusive."""
    if not account_ids:
        return []
    statement = _posted().where(
        _one_of(connection, entries, "account_id"), entries.c.created_at >= first, entries.c.created_at <= last
    )
    return [Entry(*row) for row in await connection.execute(statement, {"ids": sorted(account_ids)})]


async def entries_before(
    connection: AsyncConnection, window: LookbackWindow, first: datetime, thresholds: Thresholds
) -> list[Entry]:
    """Return the entries before `first` that the rules need."""
    if not window.debits and not window.credits:
        return []
    relevant_credits = and_(
        _one_of(connection, entries, "account_id", "credits"), entries.c.amount >= window.min_credit
    )
    debits = and_(_one_of(connection, entries, "account_id", "debits"), entries.c.amount < 0)
    statement = _posted().where(
        _one_of(connection, entries, "account_id"),
        entries.c.created_at >= first - thresholds.window,
        entries.c.created_at < first,
        or_(debits, relevant_credits),
    )
    parameters = {
        "ids": sorted(window.debits | window.credits),
        "debits": sorted(window.debits),
        "credits": sorted(window.credits),
    }
    return [Entry(*row) for row in await connection.execute(statement, parameters)]


async def flagged_windows(
    connection: AsyncConnection, account_ids: Collection[str], window_starts: Collection[str]
) -> set[tuple[str, str]]:
    """Return the (account, window start) pairs that velocity has flagged."""
    if not account_ids:
        return set()
    statement = select(flags.c.account_id, flags.c.occurrence).where(
        flags.c.rule == VELOCITY,
        _one_of(connection, flags, "account_id"),
        _one_of(connection, flags, "occurrence", "window_starts"),
    )
    parameters = {"ids": sorted(account_ids), "window_starts": sorted(window_starts)}
    return {(row.account_id, row.occurrence) for row in await connection.execute(statement, parameters)}
