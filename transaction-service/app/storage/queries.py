"""SQL of the read side: lists of transactions and flags, and what a statement consists of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, literal, literal_column, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.completeness import CLOCK_MARGIN
from app.models import accounts, entries, flags, transactions
from app.statements import PAGE, Line, BalanceAt
from shared.db.database import any_of, is_postgres


@dataclass(frozen=True, slots=True)
class TransactionFilter:
    """Filter of a list of transactions; None means no restriction."""

    owner: str | None = None
    account_id: str | None = None
    type: str | None = None
    start: datetime | None = None
    end: datetime | None = None


async def account(connection: AsyncConnection, account_id: str) -> Row[Any] | None:
    """Return an account, or None."""
    return (await connection.execute(select(accounts).where(accounts.c.id == account_id))).one_or_none()


async def list_transactions(
    connection: AsyncConnection, wanted: TransactionFilter, before: str | None, limit: int
) -> list[Row[Any]]:
    """Return transactions before an id, newest first; with an account, the owner is not checked here."""
    if wanted.account_id is not None:
        statement = _transactions_of_account(entries.c.account_id == wanted.account_id, wanted, before, limit)
    elif wanted.owner is not None and is_postgres(connection):
        # The newest of each account, by index: only these are read even of an account with a million entries.
        theirs = select(accounts.c.id).where(accounts.c.owner == wanted.owner).subquery()
        newest = (
            _transactions_of_account(entries.c.account_id == theirs.c.id, wanted, before, limit)
            .correlate(theirs)
            .lateral()
        )
        statement = select(newest).distinct().select_from(theirs.join(newest, true()))
        statement = statement.order_by(newest.c.id.desc()).limit(limit)
    else:
        statement = _apply_filter(
            select(transactions), transactions.c.id, transactions.c.created_at, wanted, before, limit
        )
        if wanted.owner is not None:
            theirs_too = select(accounts.c.id).where(accounts.c.owner == wanted.owner)
            touched = select(entries.c.transaction_id).where(entries.c.account_id.in_(theirs_too))
            statement = statement.where(transactions.c.id.in_(touched))
    return list((await connection.execute(statement)).all())


def _transactions_of_account(
    is_its: ColumnElement[bool], wanted: TransactionFilter, before: str | None, limit: int
) -> Select[Any]:
    joined = select(transactions).join(entries, entries.c.transaction_id == transactions.c.id).where(is_its)
    return _apply_filter(joined, entries.c.transaction_id, entries.c.created_at, wanted, before, limit)


def _apply_filter(
    statement: Select[Any],
    listed: ColumnElement[str],
    timestamp: ColumnElement[datetime],
    wanted: TransactionFilter,
    before: str | None,
    limit: int,
) -> Select[Any]:
    if wanted.type is not None:
        statement = statement.where(transactions.c.type == wanted.type)
    if wanted.start is not None:
        statement = statement.where(timestamp >= wanted.start)
    if wanted.end is not None:
        statement = statement.where(timestamp < wanted.end)
    if before is not None:
        statement = statement.where(listed < before)
    # A literal limit, so that the planner uses the index whatever its statistics are.
    return statement.order_by(listed.desc()).limit(literal_column(str(limit)))


async def transaction(connection: AsyncConnection, transaction_id: str) -> Row[Any] | None:
    """Return a transaction, or None."""
    return (await connection.execute(select(transactions).where(transactions.c.id == transaction_id))).one_or_none()


async def entries_of(connection: AsyncConnection, found: Sequence[Row[Any]]) -> dict[str, list[Row[Any]]]:
    """Return the entries of transactions with the owners of their accounts, the payer's first."""
    of_transaction: dict[str, list[Row[Any]]] = {row.id: [] for row in found}
    account_ids = {party for row in found for party in (row.from_account, row.to_account) if party is not None}
    # By account and transaction, like the primary key.
    statement = (
        select(entries, accounts.c.owner)
        .outerjoin(accounts, accounts.c.id == entries.c.account_id)
        .where(
            any_of(connection.dialect.name, entries.c.account_id, "ids"),
            any_of(connection.dialect.name, entries.c.transaction_id, "of"),
        )
        .order_by(entries.c.amount)
    )
    for row in await connection.execute(statement, {"ids": sorted(account_ids), "of": sorted(of_transaction)}):
        of_transaction[row.transaction_id].append(row)
    return of_transaction


async def balance_at(connection: AsyncConnection, account_id: str, timestamp: datetime) -> BalanceAt:
    """Return the balance of an account just before a time.

    Times are not strictly increasing by `seq`, so the last `seq` may be that of an entry slightly before the latest.
    """
    earlier = and_(entries.c.account_id == account_id, entries.c.seq.is_not(None), entries.c.created_at < timestamp)
    latest = await connection.scalar(select(func.max(entries.c.created_at)).where(earlier))
    if latest is None:
        return BalanceAt(0, 0)
    near = select(entries.c.seq, entries.c.balance_after).where(earlier, entries.c.created_at >= latest - CLOCK_MARGIN)
    return BalanceAt(*(await connection.execute(near.order_by(entries.c.seq.desc()).limit(1))).one())


async def lines(connection: AsyncConnection, account_id: str, after: int, last: int) -> list[Line]:
    """Return the posted entries of an account after a `seq` up to another one, in order: at most one page."""
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
        .limit(literal_column(str(PAGE)))  # as in _apply_filter
    )
    return [Line(*row) for row in await connection.execute(statement)]


async def list_flags(
    connection: AsyncConnection, account_id: str | None, after: str | None, limit: int
) -> list[Row[Any]]:
    """Return flags after a given one, newest first."""
    newest_first = (flags.c.created_at, flags.c.id)
    statement = select(flags).order_by(*(column.desc() for column in newest_first)).limit(limit)
    if account_id is not None:
        statement = statement.where(flags.c.account_id == account_id)
    if after is not None:
        listed_at = select(flags.c.created_at).where(flags.c.id == after).scalar_subquery()
        last = tuple_(listed_at, literal(after, flags.c.id.type))
        statement = statement.where(tuple_(*newest_first) < last)
    return list((await connection.execute(statement)).all())
