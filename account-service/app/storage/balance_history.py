"""Balances of an account at earlier times, from its entries.

Entries of an account have the numbers 1, 2, 3 … and, in this order, times that do not decrease (see
`app.application.flush`). So the last entry before a time is found by bisection: twenty lookups by primary key for a
million entries, in one statement.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.model import Account, BalanceAt
from app.models import entries, transactions

# More than one flush can post to an account. All entries of a flush have the same time.
_ENTRIES_OF_SAME_TIME = 10_000


async def at_time(connection: AsyncConnection, account: Account, at: datetime) -> BalanceAt:
    """Return the balance after the last entry that was posted at `at` or before."""
    seq = await connection.scalar(select_last_seq(account, transactions.c.created_at <= at))
    posted = (await connection.execute(_select_entries(account, entries.c.seq == seq))).one_or_none()
    return BalanceAt(*posted) if posted else BalanceAt()


async def after_transaction(connection: AsyncConnection, account: Account, transaction_id: str) -> BalanceAt | None:
    """Return the balance after the account's entry of a transaction; None if it has none."""
    of_account = transactions.c.from_account == account.id, transactions.c.to_account == account.id
    statement = select(transactions.c.created_at).where(
        transactions.c.id == transaction_id, of_account[0] | of_account[1]
    )
    posted_at = await connection.scalar(statement)
    if posted_at is None:
        return None
    before = await connection.scalar(select_last_seq(account, transactions.c.created_at < posted_at)) or 0
    near = entries.c.seq.between(before + 1, before + _ENTRIES_OF_SAME_TIME)
    # Otherwise all entries: those of earlier releases may be out of order, by the clock skew between replicas.
    for condition in (near, literal(True)):
        of_transaction = _select_entries(account, and_(condition, entries.c.transaction_id == transaction_id))
        posted = (await connection.execute(of_transaction.order_by(entries.c.seq).limit(1))).one_or_none()
        if posted is not None:
            return BalanceAt(*posted)
    return None


def select_last_seq(account: Account, is_before: ColumnElement[bool]) -> Select[Any]:
    """Return a query for the `seq` of the last entry whose transaction meets `is_before`, by bisection; 0 if none does.

    If an entry does not meet it, no later one may.
    """
    # Entries up to `low` meet it, those from `high` on do not.
    bisection = select(literal(0).label("low"), literal(account.seq + 1).label("high")).cte("bisection", recursive=True)
    low, high = bisection.c.low, bisection.c.high
    middle = (low + high) // 2
    halves = (
        select(case((is_before, middle), else_=low), case((is_before, high), else_=middle))
        .select_from(bisection)
        .join(entries, and_(entries.c.account_id == account.id, entries.c.seq == middle))
        .join(transactions, transactions.c.id == entries.c.transaction_id)
        .where(high - low > 1)
    )
    bisection = bisection.union_all(halves)
    return select(bisection.c.low).where(bisection.c.high - bisection.c.low == 1)


def _select_entries(account: Account, condition: ColumnElement[bool]) -> Select[Any]:
    return (
        select(entries.c.balance_after, entries.c.seq, entries.c.transaction_id, transactions.c.created_at)
        .join(transactions, transactions.c.id == entries.c.transaction_id)
        .where(entries.c.account_id == account.id, condition)
    )
