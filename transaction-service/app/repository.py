"""All SQL of transaction-service: adding to the history, what the fraud rules look at, and the read side."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zlib import crc32

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Table,
    and_,
    delete,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.completeness import CLOCK_MARGIN
from app.fraud import VELOCITY, Entry, Finding, LookBack, Thresholds
from app.models import accounts, checkpoints, entries, flags, inbox, transactions
from app.projection import Projection
from app.statements import PAGE, Line, Standing
from shared.db.database import any_of, bulk_insert_new, is_postgres

_ASSESSMENT_LOCK = crc32(b"transaction-service/assessment")
# In the order in which consumers write to them, so that nobody waits in a circle.
_PROJECTION = (inbox.seen, transactions, accounts, entries, checkpoints)

_IS_POSTED = entries.c.seq.is_not(None)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which transactions to list: what is not None narrows the list."""

    owner: str | None = None
    account_id: str | None = None
    type: str | None = None
    start: datetime | None = None
    end: datetime | None = None


def _one_of(connection: AsyncConnection, table: Table, column: str, parameter: str = "ids") -> ColumnElement[bool]:
    return any_of(connection.dialect.name, table.c[column], parameter)


# Writing --------------------------------------------------------------------------------------------------------------


async def add(connection: AsyncConnection, projection: Projection) -> set[str]:
    """Write the rows that are not there yet, in key order so that replicas do not deadlock; return new accounts."""
    await bulk_insert_new(connection, transactions, _in_order(projection.transactions))
    new_accounts = await bulk_insert_new(connection, accounts, _in_order(projection.accounts))
    await bulk_insert_new(connection, entries, _in_order(projection.entries))
    return {row.id for row in new_accounts}


def _in_order(rows: Mapping[Any, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [rows[key] for key in sorted(rows)]


async def add_flags(connection: AsyncConnection, findings: Iterable[Finding], now: datetime) -> set[str]:
    """Write the findings that are not there yet; return their ids."""
    rows = [
        {
            "id": finding.event_id,
            "transaction_id": finding.transaction_id,
            "account_id": finding.account_id,
            "rule": finding.rule,
            "occurrence": finding.occurrence,
            "score": finding.score,
            "action": finding.action,
            "created_at": now,
        }
        for finding in findings
    ]
    return {row.id for row in await bulk_insert_new(connection, flags, rows)}


async def clear(connection: AsyncConnection) -> None:
    """Forget the history and which events made it; flags and positions stay."""
    if is_postgres(connection):
        names = ", ".join(table.name for table in _PROJECTION)
        await connection.execute(text(f"TRUNCATE {names}"))  # names of models, never input
        return
    for table in _PROJECTION:
        await connection.execute(delete(table))


# Fraud ----------------------------------------------------------------------------------------------------------------


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
        .where(_IS_POSTED)
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


# Reading --------------------------------------------------------------------------------------------------------------


async def account(connection: AsyncConnection, account_id: str) -> Row[Any] | None:
    """Return an account, or None."""
    return (await connection.execute(select(accounts).where(accounts.c.id == account_id))).one_or_none()


async def list_transactions(
    connection: AsyncConnection, wanted: Filter, before: str | None, limit: int
) -> list[Row[Any]]:
    """Return transactions, the newest first, before an id; of an account the owner does not matter any more."""
    if wanted.account_id is not None:
        statement = _of_account(entries.c.account_id == wanted.account_id, wanted, before, limit)
    elif wanted.owner is not None and is_postgres(connection):
        # The newest of each account, by index: of an account with a million entries nothing else is read.
        theirs = select(accounts.c.id).where(accounts.c.owner == wanted.owner).subquery()
        newest = _of_account(entries.c.account_id == theirs.c.id, wanted, before, limit).correlate(theirs).lateral()
        statement = select(newest).distinct().select_from(theirs.join(newest, true()))
        statement = statement.order_by(newest.c.id.desc()).limit(limit)
    else:
        statement = _narrowed(select(transactions), transactions.c.id, transactions.c.created_at, wanted, before, limit)
        if wanted.owner is not None:
            theirs_too = select(accounts.c.id).where(accounts.c.owner == wanted.owner)
            touched = select(entries.c.transaction_id).where(entries.c.account_id.in_(theirs_too))
            statement = statement.where(transactions.c.id.in_(touched))
    return list((await connection.execute(statement)).all())


def _of_account(is_its: ColumnElement[bool], wanted: Filter, before: str | None, limit: int) -> Select[Any]:
    joined = select(transactions).join(entries, entries.c.transaction_id == transactions.c.id).where(is_its)
    return _narrowed(joined, entries.c.transaction_id, entries.c.created_at, wanted, before, limit)


def _narrowed(
    statement: Select[Any],
    listed: ColumnElement[str],
    moment: ColumnElement[datetime],
    wanted: Filter,
    before: str | None,
    limit: int,
) -> Select[Any]:
    if wanted.type is not None:
        statement = statement.where(transactions.c.type == wanted.type)
    if wanted.start is not None:
        statement = statement.where(moment >= wanted.start)
    if wanted.end is not None:
        statement = statement.where(moment < wanted.end)
    if before is not None:
        statement = statement.where(listed < before)
    # A number that the planner can see, so that it reads by index whatever it knows of the tables.
    return statement.order_by(listed.desc()).limit(literal_column(str(limit)))


async def transaction(connection: AsyncConnection, transaction_id: str) -> Row[Any] | None:
    """Return a transaction, or None."""
    return (await connection.execute(select(transactions).where(transactions.c.id == transaction_id))).one_or_none()


async def entries_of(connection: AsyncConnection, found: Sequence[Row[Any]]) -> dict[str, list[Row[Any]]]:
    """Return the entries of transactions with the owners of their accounts, the payer's first."""
    of_transaction: dict[str, list[Row[Any]]] = {row.id: [] for row in found}
    account_ids = {party for row in found for party in (row.from_account, row.to_account) if party is not None}
    # Looked up by account and transaction, as the primary key has it.
    statement = (
        select(entries, accounts.c.owner)
        .outerjoin(accounts, accounts.c.id == entries.c.account_id)
        .where(_one_of(connection, entries, "account_id"), _one_of(connection, entries, "transaction_id", "of"))
        .order_by(entries.c.amount)
    )
    for row in await connection.execute(statement, {"ids": sorted(account_ids), "of": sorted(of_transaction)}):
        of_transaction[row.transaction_id].append(row)
    return of_transaction


async def standing(connection: AsyncConnection, account_id: str, moment: datetime) -> Standing:
    """Return how an account stood just before a time.

    Times may run backwards a little from one `seq` to the next, so it may be that of an entry just before the latest.
    """
    earlier = and_(entries.c.account_id == account_id, _IS_POSTED, entries.c.created_at < moment)
    latest = await connection.scalar(select(func.max(entries.c.created_at)).where(earlier))
    if latest is None:
        return Standing(0, 0)
    near = select(entries.c.seq, entries.c.balance_after).where(earlier, entries.c.created_at >= latest - CLOCK_MARGIN)
    return Standing(*(await connection.execute(near.order_by(entries.c.seq.desc()).limit(1))).one())


async def lines(connection: AsyncConnection, account_id: str, after: int, last: int) -> list[Line]:
    """Return the posted entries of an account after a `seq` up to another one, in order: a page of them at most."""
    statement = (
        select(
            entries.c.transaction_id,
            transactions.c.type,
            entries.c.seq,
            entries.c.amount,
            entries.c.balance_after,
            entries.c.counterparty,
            transactions.c.reference,
            entries.c.created_at,
        )
        .join(transactions, transactions.c.id == entries.c.transaction_id)
        .where(entries.c.account_id == account_id, entries.c.seq > after, entries.c.seq <= last)
        .order_by(entries.c.seq)
        .limit(literal_column(str(PAGE)))  # as in _narrowed
    )
    return [Line(*row) for row in await connection.execute(statement)]


async def list_flags(
    connection: AsyncConnection, account_id: str | None, after: str | None, limit: int
) -> list[Row[Any]]:
    """Return flags, the newest first, after one that was listed before."""
    newest_first = (flags.c.created_at, flags.c.id)
    statement = select(flags).order_by(*(column.desc() for column in newest_first)).limit(limit)
    if account_id is not None:
        statement = statement.where(flags.c.account_id == account_id)
    if after is not None:
        listed_at = select(flags.c.created_at).where(flags.c.id == after).scalar_subquery()
        last = tuple_(listed_at, literal(after, flags.c.id.type))
        statement = statement.where(tuple_(*newest_first) < last)
    return list((await connection.execute(statement)).all())
