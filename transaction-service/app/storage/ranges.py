"""SQL for gapless ranges of entries, and for the totals that reconciliation compares.

For an account with many entries, only those after its last checkpoint are read.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.completeness import GaplessRange
from app.domain.reconciliation import Checkpoint, History, HistoryAtBalance
from app.models import checkpoints, entries
from shared.db.database import any_of, bulk_insert_new, is_postgres, key_rows

_IS_POSTED = entries.c.seq.is_not(None)
_NONE = Checkpoint()


def _of(connection: AsyncConnection) -> ColumnElement[bool]:
    return any_of(connection.dialect.name, entries.c.account_id, "ids")


async def _checkpoints(connection: AsyncConnection, account_ids: Sequence[str]) -> dict[str, Checkpoint]:
    """Return the last checkpoint of each account, if its entry still exists."""
    rows = await connection.execute(_select_checkpoints(connection.dialect.name), {"ids": list(account_ids)})
    return {row.account_id: Checkpoint(row.seq, row.balance, row.created_at) for row in rows}


@cache
def _select_checkpoints(dialect: str) -> Select[Any]:
    last = (
        select(checkpoints.c.account_id, func.max(checkpoints.c.seq).label("seq"))
        .where(any_of(dialect, checkpoints.c.account_id, "ids"))
        .group_by(checkpoints.c.account_id)
        .subquery()
    )
    at_last = and_(checkpoints.c.account_id == last.c.account_id, checkpoints.c.seq == last.c.seq)
    entry = and_(
        entries.c.account_id == last.c.account_id,
        entries.c.seq == last.c.seq,
        entries.c.balance_after == checkpoints.c.balance,
    )
    columns = (last.c.account_id, last.c.seq, checkpoints.c.balance, entries.c.created_at)
    return select(*columns).join(checkpoints, at_last).join(entries, entry)


async def add_checkpoints(connection: AsyncConnection, new: Mapping[str, Checkpoint]) -> None:
    """Insert checkpoints that do not exist yet."""
    rows = [{"account_id": id_, "seq": item.seq, "balance": item.balance} for id_, item in sorted(new.items())]
    await bulk_insert_new(connection, checkpoints, rows)


async def _measure_after_checkpoint(
    connection: AsyncConnection, account_ids: Sequence[str], *measures: ColumnElement[Any]
) -> tuple[dict[str, Checkpoint], dict[str, Row[Any]]]:
    """Aggregate the entries after the last checkpoints; return the checkpoints, and the aggregates by account.

    Accounts without a checkpoint have few entries and are aggregated in one query.
    """
    checkpoints_ = await _checkpoints(connection, account_ids)
    few = [account_id for account_id in account_ids if account_id not in checkpoints_]
    aggregate = select(entries.c.account_id, *measures).where(_IS_POSTED).group_by(entries.c.account_id)
    rows = await connection.execute(aggregate.where(_of(connection)), {"ids": few})
    by_account = {row.account_id: row for row in rows}
    for account_id, checkpoint in checkpoints_.items():
        newer = aggregate.where(entries.c.account_id == account_id, entries.c.seq > checkpoint.seq)
        if (row := (await connection.execute(newer)).one_or_none()) is not None:
            by_account[account_id] = row
    return checkpoints_, by_account


_COUNT = func.count().label("entries")
_LAST = func.max(entries.c.seq).label("seq")


async def gapless_ranges(connection: AsyncConnection, account_ids: Sequence[str]) -> dict[str, GaplessRange]:
    """Return the gapless range of each account's history."""
    last_checkpoints, newer = await _measure_after_checkpoint(connection, account_ids, _COUNT, _LAST)
    ends: dict[str, int] = {}
    for account_id, row in newer.items():
        base = last_checkpoints.get(account_id, _NONE).seq
        whole = row.seq - base == row.entries
        ends[account_id] = row.seq if whole else await _before_gap(connection, account_id, base)
    extent = {id_: GaplessRange(checkpoint.seq, checkpoint.at) for id_, checkpoint in last_checkpoints.items()}
    pairs = [(account_id, seq) for account_id, seq in ends.items() if seq > last_checkpoints.get(account_id, _NONE).seq]
    for row in await _at(connection, pairs):
        extent[row.account_id] = GaplessRange(row.seq, row.created_at)
    return {account_id: extent.get(account_id, GaplessRange()) for account_id in account_ids}


async def _before_gap(connection: AsyncConnection, account_id: str, base: int) -> int:
    """Return the `seq` of the last entry before the first gap after `base`."""
    following = entries.alias()
    has_next = select(literal(1)).where(following.c.account_id == account_id, following.c.seq == entries.c.seq + 1)
    last = select(entries.c.seq).where(entries.c.account_id == account_id, ~has_next.exists())
    # The query stops at the first gap.
    starts = select(literal(1)).where(entries.c.account_id == account_id, entries.c.seq == base + 1)
    if await connection.scalar(starts) is None:
        return base
    return int(await connection.scalar(last.where(entries.c.seq > base).order_by(entries.c.seq).limit(1)) or base)


async def _at(connection: AsyncConnection, pairs: Sequence[tuple[str, int]]) -> list[Row[Any]]:
    if not pairs:
        return []
    account_ids, seqs = zip(*pairs, strict=True)
    parameters = {"account_ids": list(account_ids), "seqs": list(seqs)} if is_postgres(connection) else {"pairs": pairs}
    return list(await connection.execute(_select_at(connection.dialect.name), parameters))


@cache
def _select_at(dialect: str) -> Select[Any]:
    statement = select(entries.c.account_id, entries.c.seq, entries.c.balance_after, entries.c.created_at)
    if dialect != "postgresql":
        return statement.where(tuple_(entries.c.account_id, entries.c.seq).in_(bindparam("pairs", expanding=True)))
    keys = key_rows(entries.c.account_id, entries.c.seq)
    return statement.join(keys, and_(entries.c.account_id == keys.c.account_id, entries.c.seq == keys.c.seq))


# Reconciliation -------------------------------------------------------------------------------------------------------


async def account_histories(connection: AsyncConnection, account_ids: Sequence[str]) -> dict[str, History]:
    """Return the totals of each account's history."""
    last_checkpoints, newer = await _measure_after_checkpoint(
        connection, account_ids, _COUNT, _LAST, func.sum(entries.c.amount).label("total")
    )
    balances = {row.account_id: row.balance_after for row in await _at(connection, _ends(newer.values()))}
    histories = {}
    for account_id in last_checkpoints.keys() | newer.keys():
        base, row = last_checkpoints.get(account_id, _NONE), newer.get(account_id)
        if row is None:
            histories[account_id] = History(base.seq, base.seq, base.balance, base.balance, checkpoint=base.seq)
            continue
        count, total = base.seq + row.entries, base.balance + int(row.total)
        gap = await _first_gap_time(connection, account_id, base.seq) if count != row.seq else None
        histories[account_id] = History(count, row.seq, total, balances[account_id], gap, base.seq)
    return histories


def _ends(rows: Iterable[Row[Any]]) -> list[tuple[str, int]]:
    return [(row.account_id, row.seq) for row in rows]


async def _first_gap_time(connection: AsyncConnection, account_id: str, base: int) -> datetime | None:
    """Return the time of the first entry after `base` whose predecessor is missing."""
    end = await _before_gap(connection, account_id, base)
    beyond = select(entries.c.created_at).where(entries.c.account_id == account_id, entries.c.seq > end)
    since: datetime | None = await connection.scalar(beyond.order_by(entries.c.seq).limit(1))
    return since


async def histories_at(connection: AsyncConnection, ends: Mapping[str, int]) -> dict[str, HistoryAtBalance]:
    """Return for each account the balance at the given `seq`, and the time of the next entry."""
    pairs = [(account_id, seq + step) for account_id, seq in ends.items() for step in (0, 1)]
    rows = {(row.account_id, row.seq): row for row in await _at(connection, pairs)}
    histories = {}
    for account_id, seq in ends.items():
        row, following = rows.get((account_id, seq)), rows.get((account_id, seq + 1))
        histories[account_id] = HistoryAtBalance(
            row.balance_after if row else None, following.created_at if following else None
        )
    return histories
