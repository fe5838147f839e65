"""SQL of the read side: lists of transactions and flags, and what a statement consists of."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    RowMapping,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    select,
    true,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.completeness import CLOCK_MARGIN
from app.models import accounts, entries, flags, transactions
from app.statements import PAGE_SIZE, BalanceAt, Line, Totals
from shared.db.database import any_of, is_postgres, key_rows

_ACCOUNT = select(accounts).where(accounts.c.id == bindparam("account_id"))


@dataclass(frozen=True, slots=True)
class TransactionFilter:
    """Filter of a list of transactions; None means no restriction."""

    owner: str | None = None
    account_id: str | None = None
    type: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    reference: str | None = None
    counterparty: str | None = None
    # Of the amount without its sign.
    min_amount: int | None = None
    max_amount: int | None = None
    code: str | None = None
    metadata_key: str | None = None
    metadata_value: str | None = None
    group_id: str | None = None

    @property
    def searches(self) -> bool:
        """Whether the filter has a condition besides owner, account, type, time and group."""
        on_amount = self.min_amount is not None or self.max_amount is not None
        texts = (self.reference, self.counterparty, self.code, self.metadata_key, self.metadata_value)
        return on_amount or any(text is not None for text in texts)


async def account(connection: AsyncConnection, account_id: str) -> Row[Any] | None:
    """Return an account, or None."""
    return (await connection.execute(_ACCOUNT, {"account_id": account_id})).one_or_none()


async def list_transactions(
    connection: AsyncConnection, filter_: TransactionFilter, before: str | None, limit: int
) -> list[Row[Any]]:
    """Return transactions before an id, newest first; with an account, the owner is not checked here."""
    if filter_.group_id is not None:
        statement = _transactions_of_group(filter_, before, limit)
    elif filter_.account_id is not None:
        statement = _transactions_of_account(entries.c.account_id == filter_.account_id, filter_, before, limit)
    elif filter_.owner is not None and is_postgres(connection):
        # The newest of each account, by index: only these are read even of an account with a million entries.
        owned = select(accounts.c.id).where(accounts.c.owner == filter_.owner).subquery()
        newest = (
            _transactions_of_account(entries.c.account_id == owned.c.id, filter_, before, limit)
            .correlate(owned)
            .lateral()
        )
        statement = select(newest).distinct().select_from(owned.join(newest, true()))
        statement = statement.order_by(newest.c.id.desc()).limit(limit)
    else:
        statement = _apply_filter(
            select(transactions), transactions.c.id, transactions.c.created_at, filter_, before, limit
        )
        if filter_.owner is not None:
            owned_accounts = select(accounts.c.id).where(accounts.c.owner == filter_.owner)
            their_transactions = select(entries.c.transaction_id).where(entries.c.account_id.in_(owned_accounts))
            statement = statement.where(transactions.c.id.in_(their_transactions))
    return list((await connection.execute(statement)).all())


def _transactions_of_group(filter_: TransactionFilter, before: str | None, limit: int) -> Select[Any]:
    """Return the statement for a group, which is small: the entries of each of its transactions are looked up."""
    parties = (transactions.c.from_account, transactions.c.to_account)
    visible = select(entries).where(entries.c.transaction_id == transactions.c.id, entries.c.account_id.in_(parties))
    statement = select(transactions).where(transactions.c.group_id == filter_.group_id)
    if filter_.account_id is not None:
        statement = statement.where(visible.where(entries.c.account_id == filter_.account_id).exists())
    elif filter_.owner is not None:
        owned = visible.join(accounts, accounts.c.id == entries.c.account_id).where(accounts.c.owner == filter_.owner)
        statement = statement.where(owned.exists())
    return _apply_filter(statement, transactions.c.id, transactions.c.created_at, filter_, before, limit)


def _transactions_of_account(
    account_condition: ColumnElement[bool], filter_: TransactionFilter, before: str | None, limit: int
) -> Select[Any]:
    joined = select(transactions).join(entries, entries.c.transaction_id == transactions.c.id).where(account_condition)
    return _apply_filter(joined, entries.c.transaction_id, entries.c.created_at, filter_, before, limit)


def _apply_filter(
    statement: Select[Any],
    id_column: ColumnElement[str],
    time_column: ColumnElement[datetime],
    filter_: TransactionFilter,
    before: str | None,
    limit: int,
) -> Select[Any]:
    if filter_.type is not None:
        statement = statement.where(transactions.c.type == filter_.type)
    if filter_.start is not None:
        statement = statement.where(time_column >= filter_.start)
    if filter_.end is not None:
        statement = statement.where(time_column < filter_.end)
    if before is not None:
        statement = statement.where(id_column < before)
    # A literal limit, so that the planner uses the index whatever its statistics are.
    return statement.order_by(id_column.desc()).limit(literal_column(str(limit)))


async def transaction(connection: AsyncConnection, transaction_id: str) -> Row[Any] | None:
    """Return a transaction, or None."""
    return (await connection.execute(select(transactions).where(transactions.c.id == transaction_id))).one_or_none()


async def entries_of(connection: AsyncConnection, rows: Sequence[Row[Any]]) -> dict[str, list[Row[Any]]]:
    """Return the entries of transactions with the owners of their accounts, the payer's first."""
    of_transaction: dict[str, list[Row[Any]]] = {row.id: [] for row in rows}
    keys = sorted(
        {(party, row.id) for row in rows for party in (row.from_account, row.to_account) if party is not None}
    )
    parameters = {"account_ids": [key[0] for key in keys], "transaction_ids": [key[1] for key in keys]}
    for row in await connection.execute(_select_entries(connection.dialect.name), parameters):
        of_transaction[row.transaction_id].append(row)
    return of_transaction


@cache
def _select_entries(dialect: str) -> Select[Any]:
    statement = (
        select(entries, accounts.c.owner)
        .outerjoin(accounts, accounts.c.id == entries.c.account_id)
        .order_by(entries.c.amount)
    )
    if dialect != "postgresql":
        return statement.where(
            any_of(dialect, entries.c.account_id, "account_ids"),
            any_of(dialect, entries.c.transaction_id, "transaction_ids"),
        )
    keys = key_rows(entries.c.account_id, entries.c.transaction_id)
    return statement.join(
        keys,
        and_(entries.c.account_id == keys.c.account_id, entries.c.transaction_id == keys.c.transaction_id),
    )


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
        .limit(literal_column(str(PAGE_SIZE)))  # as in _apply_filter
    )
    return [Line(*row) for row in await connection.execute(statement)]


async def totals(connection: AsyncConnection, account_id: str, after: int, last: int) -> Totals:
    """Return the totals of the posted entries of an account after a `seq` up to another one."""
    amount = entries.c.amount
    columns = (
        func.coalesce(func.max(entries.c.seq), after),
        func.count(),
        func.coalesce(func.sum(case((amount > 0, amount), else_=0)), 0),
        func.coalesce(func.sum(case((amount < 0, -amount), else_=0)), 0),
    )
    statement = select(*columns).where(entries.c.account_id == account_id, entries.c.seq > after, entries.c.seq <= last)
    # PostgreSQL adds up 64-bit integers as decimals.
    return Totals(*map(int, (await connection.execute(statement)).one()))


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


async def flags_by_id(connection: AsyncConnection, after: str | None, limit: int) -> Sequence[RowMapping]:
    """Return flags after an id, in id order."""
    statement = select(flags).order_by(flags.c.id).limit(limit)
    if after is not None:
        statement = statement.where(flags.c.id > after)
    return (await connection.execute(statement)).mappings().all()
