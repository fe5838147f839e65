"""SQL that reads what the fraud rules look at."""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from zlib import crc32

from sqlalchemy import ColumnElement, Select, Table, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.fraud import VELOCITY, Entry, LookBack, Thresholds
from app.models import accounts, entries, flags, transactions
from shared.db.database import any_of, is_postgres

_ASSESSMENT_LOCK = crc32(b"transaction-service/assessment")


def _one_of(connection: AsyncConnection, table: Table, column: str, parameter: str = "ids") -> ColumnElement[bool]:
    return any_of(connection.dialect.name, table.c[column], parameter)


async def assess_alone(connection: AsyncConnection) -> None:
    """Wait until no other replica assesses: two that each miss the other's entries could both miss a finding."""
    if is_postgres(connection):
        await connection.execute(select(func.pg_advisory_xact_lock(_ASSESSMENT_LOCK)))


def _posted() -> Select[Any]:
    """Select posted entries of customers; accounts that nobody opened are the bank's own."""
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
    """Return the posted entries of customers among the accounts from `first` to `last`, both included."""
    if not account_ids:
        return []
    statement = _posted().where(
        _one_of(connection, entries, "account_id"), entries.c.created_at >= first, entries.c.created_at <= last
    )
    return [Entry(*row) for row in await connection.execute(statement, {"ids": sorted(account_ids)})]


async def entries_before(
    connection: AsyncConnection, wanted: LookBack, first: datetime, thresholds: Thresholds
) -> list[Entry]:
    """Return what the rules need of the time before `first`."""
    if not wanted.debits and not wanted.credits:
        return []
    watched_credits = and_(
        _one_of(connection, entries, "account_id", "credits"), entries.c.amount >= wanted.least_credit
    )
    debits = and_(_one_of(connection, entries, "account_id", "debits"), entries.c.amount < 0)
    statement = _posted().where(
        _one_of(connection, entries, "account_id"),
        entries.c.created_at >= first - thresholds.window,
        entries.c.created_at < first,
        or_(debits, watched_credits),
    )
    parameters = {
        "ids": sorted(wanted.debits | wanted.credits),
        "debits": sorted(wanted.debits),
        "credits": sorted(wanted.credits),
    }
    return [Entry(*row) for row in await connection.execute(statement, parameters)]


async def flagged_stretches(
    connection: AsyncConnection, account_ids: Collection[str], occurrences: Collection[str]
) -> set[tuple[str, str]]:
    """Return (account, occurrence) of those stretches of time that velocity has flagged already."""
    if not account_ids:
        return set()
    statement = select(flags.c.account_id, flags.c.occurrence).where(
        flags.c.rule == VELOCITY,
        _one_of(connection, flags, "account_id"),
        _one_of(connection, flags, "occurrence", "occurrences"),
    )
    parameters = {"ids": sorted(account_ids), "occurrences": sorted(occurrences)}
    return {(row.account_id, row.occurrence) for row in await connection.execute(statement, parameters)}
