"""SQL of the search in the transactions of an account.

A search reads a limited number of entries, newest first, so that a rare match costs no more than a frequent one: a page
then has fewer transactions than its limit, and continues after the last entry that was read.
"""

from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, Select, Subquery, func, literal_column, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from app.models import entries, transactions
from app.storage.queries import TransactionFilter
from shared.db.database import is_postgres

# Maximum number of entries that one page reads.
MAX_ENTRIES = 10_000


async def search_transactions(
    connection: AsyncConnection, filter_: TransactionFilter, before: str | None, limit: int
) -> tuple[list[Row[Any]], str | None]:
    """Return transactions of the filter's account before an id, newest first, and the id that was read last.

    The id is None if the page is full or no older entry exists.
    """
    read = _entries_read(filter_, before).subquery()
    if is_postgres(connection):
        # OFFSET forces one index lookup per entry; the planner would read the whole table instead.
        found = select(transactions).where(transactions.c.id == read.c.transaction_id).offset(0).lateral()
        matching = select(found).select_from(read.join(found, true()))
        conditions = _conditions(read, found.c, filter_, func.strpos)
    else:
        matching = select(transactions).join(read, transactions.c.id == read.c.transaction_id)
        conditions = _conditions(read, transactions.c, filter_, func.instr)
    newest = matching.where(*conditions).order_by(read.c.transaction_id.desc()).limit(literal_column(str(limit)))
    rows = list((await connection.execute(newest)).all())
    if len(rows) == limit:
        return rows, None
    last = _entries_read(filter_, before).with_only_columns(entries.c.transaction_id)
    return rows, await connection.scalar(last.limit(1).offset(MAX_ENTRIES - 1))


def _entries_read(filter_: TransactionFilter, before: str | None) -> Select[Any]:
    read = select(entries).where(entries.c.account_id == filter_.account_id)
    if filter_.start is not None:
        read = read.where(entries.c.created_at >= filter_.start)
    if filter_.end is not None:
        read = read.where(entries.c.created_at < filter_.end)
    if before is not None:
        read = read.where(entries.c.transaction_id < before)
    return read.order_by(entries.c.transaction_id.desc()).limit(literal_column(str(MAX_ENTRIES)))


def _conditions(
    read: Subquery, transaction: Any, filter_: TransactionFilter, position: Any
) -> list[ColumnElement[bool]]:
    """Return the conditions; those on the entry spare the lookup of its transaction.

    `position` is the SQL function that returns the position of a text in another, 0 if it is not there.
    """
    conditions: list[ColumnElement[bool]] = []
    if filter_.counterparty is not None:
        conditions.append(read.c.counterparty == filter_.counterparty)
    if filter_.min_amount is not None:
        conditions.append(func.abs(read.c.amount) >= filter_.min_amount)
    if filter_.max_amount is not None:
        conditions.append(func.abs(read.c.amount) <= filter_.max_amount)
    if filter_.code is not None:
        conditions += [read.c.seq.is_(None), transaction.code == filter_.code]
    if filter_.reference is not None:
        conditions.append(transaction.reference == filter_.reference)
    if filter_.metadata_key is not None:
        conditions.append(_has_metadata(transaction, filter_.metadata_key, filter_.metadata_value, position))
    if filter_.group_id is not None:
        conditions.append(transaction.group_id == filter_.group_id)
    if filter_.type is not None:
        conditions.append(transaction.type == filter_.type)
    return conditions


def _has_metadata(transaction: Any, key: str, value: str | None, position: Any) -> ColumnElement[bool]:
    """Return the condition on the stored JSON, where quotes inside texts are escaped."""
    wanted = orjson.dumps({key: value or ""}).decode()[1:-1]
    condition: ColumnElement[bool] = position(transaction.metadata, wanted if value else wanted[:-1]) > 0
    return condition
