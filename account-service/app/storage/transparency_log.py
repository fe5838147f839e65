"""SQL of the transparency log: posted rows to seal, leaves, stored nodes of the Merkle tree, and checkpoints."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, select, text, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.models import entries, ledger_keys, ledger_leaves, ledger_nodes, ledger_roots, transactions
from app.storage import balance_history, repository
from app.transparency import leaves, merkle
from shared.db.database import Write, any_of, is_postgres, key_rows, write_all

# Arbitrary, but above 32 bits: relays use the range below (shared.messaging.relay).
_SEALER_LOCK = 0x7365616C6572
_ENTRIES_OF_TRANSACTION = 2


@dataclass(frozen=True, slots=True)
class Posted:
    """A posted transaction with its entries, as the columns of their rows."""

    transaction: leaves.Row
    entries: Sequence[leaves.Row]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf of the log; `event_position` is the position of the transaction's event in the outbox."""

    position: int
    transaction_id: str
    event_position: int
    salt: bytes
    data: bytes


_LEAF_FIELDS = tuple(field.name for field in fields(Leaf))
# As str itself: names of columns are of a subclass, which orjson refuses as keys.
_TRANSACTION_COLUMNS = [str.__str__(column.name) for column in transactions.columns]
_ENTRY_COLUMNS = [str.__str__(column.name) for column in entries.columns]


async def try_lock(connection: AsyncConnection) -> bool:
    """Return whether this database transaction may append; only one at a time may, which SQLite ensures by itself."""
    if not is_postgres(connection):
        return True
    return bool(await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _SEALER_LOCK}))


async def end(connection: AsyncConnection) -> tuple[int, int]:
    """Return the number of leaves, and the event position of the last one."""
    last = select(ledger_leaves.c.position, ledger_leaves.c.event_position).order_by(ledger_leaves.c.position.desc())
    row = (await connection.execute(last.limit(1))).one_or_none()
    return (row.position + 1, row.event_position) if row else (0, 0)


async def unsealed(connection: AsyncConnection, keys: Sequence[tuple[str, str, int]]) -> dict[str, Posted]:
    """Return the transactions that have no leaf yet, by id; keys are transaction, account and seq of known entries."""
    if not keys:
        return {}
    statements = _statements_for(connection.dialect.name)
    found = await connection.execute(statements.transactions, {"ids": list({key[0] for key in keys})})
    posted = {row.id: dict(zip(_TRANSACTION_COLUMNS, row)) for row in found}
    pairs = [(account_id, seq) for id_, account_id, seq in keys if id_ in posted]
    by_transaction: dict[str, list[leaves.Row]] = defaultdict(list)
    for entry in await _entries(connection, pairs):
        by_transaction[entry["transaction_id"]].append(entry)
    for id_, row in posted.items():
        if len(by_transaction[id_]) != _ENTRIES_OF_TRANSACTION:
            by_transaction[id_] = list(await _entries_of(connection, row))
    return {id_: Posted(row, by_transaction[id_]) for id_, row in posted.items()}


async def find(connection: AsyncConnection, transaction_id: str) -> Posted | None:
    """Return a posted transaction with its entries."""
    found = await connection.execute(select(transactions).where(transactions.c.id == transaction_id))
    if (row := found.one_or_none()) is None:
        return None
    transaction = dict(zip(_TRANSACTION_COLUMNS, row))
    return Posted(transaction, await _entries_of(connection, transaction))


async def find_leaf(connection: AsyncConnection, transaction_id: str) -> Leaf | None:
    """Return the leaf of a transaction."""
    columns = [ledger_leaves.c[name] for name in _LEAF_FIELDS]
    found = await connection.execute(select(*columns).where(ledger_leaves.c.transaction_id == transaction_id))
    row = found.one_or_none()
    return Leaf(*row) if row else None


async def append(connection: AsyncConnection, added: Sequence[Leaf]) -> None:
    """Append leaves, which continue the positions, and store the nodes that they complete."""
    await write_all(connection, [Write.of(ledger_leaves, _LEAF_FIELDS, added)])
    for level, index in merkle.completed_nodes(added[0].position, added[-1].position + 1):
        children = (level - merkle.LEVEL_STEP, index << merkle.LEVEL_STEP, (index + 1) << merkle.LEVEL_STEP)
        hashes = await _nodes(connection, *children)
        await connection.execute(ledger_nodes.insert().values(level=level, index=index, hash=merkle.root_of(hashes)))


async def nodes(connection: AsyncConnection, size: int, *positions: int) -> merkle.Nodes:
    """Return the nodes for proofs about these positions in a tree of `size` leaves."""
    found = {}
    for level, first, last in merkle.ranges_to_load(size, *positions):
        for index, each in enumerate(await _nodes(connection, level, first, last), first):
            found[level, index] = each
    return found


async def add_checkpoint(
    connection: AsyncConnection, root_id: str, size: int, note: str, keys: Sequence[str], now: datetime
) -> None:
    """Store a signed checkpoint, and the public keys that are new."""
    root = {"id": root_id, "size": size, "created_at": now, "checkpoint": note}
    await connection.execute(ledger_roots.insert().values(root))
    dialect = postgresql if is_postgres(connection) else sqlite
    rows = [{"public_key": key, "created_at": now} for key in keys]
    await connection.execute(dialect.insert(ledger_keys).values(rows).on_conflict_do_nothing())


async def checkpoints(connection: AsyncConnection, before: str | None, limit: int) -> list[Row[Any]]:
    """Return id, size, time and note of the checkpoints before an id, newest first."""
    newest_first = select(ledger_roots).order_by(ledger_roots.c.id.desc()).limit(limit)
    if before is not None:
        newest_first = newest_first.where(ledger_roots.c.id < before)
    return list(await connection.execute(newest_first))


async def last_checkpoint(connection: AsyncConnection) -> tuple[int, datetime | None]:
    """Return size and time of the last checkpoint; 0 and None without any."""
    last = select(ledger_roots.c.size, ledger_roots.c.created_at).order_by(ledger_roots.c.size.desc()).limit(1)
    row = (await connection.execute(last)).one_or_none()
    return (row.size, row.created_at) if row else (0, None)


async def checkpoint_after(connection: AsyncConnection, position: int) -> str | None:
    """Return the note of the last checkpoint if it covers a leaf."""
    covering = select(ledger_roots.c.checkpoint).where(ledger_roots.c.size > position)
    note: str | None = await connection.scalar(covering.order_by(ledger_roots.c.size.desc()).limit(1))
    return note


async def public_keys(connection: AsyncConnection) -> list[str]:
    """Return all public keys that have signed checkpoints, newest first."""
    keys = select(ledger_keys.c.public_key).order_by(ledger_keys.c.created_at.desc(), ledger_keys.c.public_key)
    return list(await connection.scalars(keys))


async def _nodes(connection: AsyncConnection, level: int, first: int, last: int) -> list[bytes]:
    """Return the stored hashes of a level, from index `first` to before `last`."""
    if level == 0:
        position = ledger_leaves.c.position
        data = select(ledger_leaves.c.data).where(position >= first, position < last).order_by(position)
        return [merkle.leaf_hash(leaf) for leaf in await connection.scalars(data)]
    index = ledger_nodes.c.index
    wanted = ledger_nodes.c.level == level, index >= first, index < last
    return list(await connection.scalars(select(ledger_nodes.c.hash).where(*wanted).order_by(index)))


async def _entries(connection: AsyncConnection, pairs: Sequence[tuple[str, int]]) -> Sequence[leaves.Row]:
    if not pairs:
        return []
    account_ids, seqs = zip(*pairs, strict=True)
    parameters = {"account_ids": list(account_ids), "seqs": list(seqs)} if is_postgres(connection) else {"pairs": pairs}
    statement = _statements_for(connection.dialect.name).entries
    return [dict(zip(_ENTRY_COLUMNS, row)) for row in await connection.execute(statement, parameters)]


async def _entries_of(connection: AsyncConnection, transaction: leaves.Row) -> Sequence[leaves.Row]:
    """Return the entries of a transaction; they have no index by transaction."""
    pairs = []
    for account_id in (transaction["from_account"], transaction["to_account"]):
        account = await repository.find_account(connection, account_id)
        entry = await balance_history.after_transaction(connection, account, transaction["id"]) if account else None
        if entry is not None:
            pairs.append((account_id, entry.seq))
    return await _entries(connection, pairs)


@dataclass(frozen=True, slots=True)
class _Statements:
    """Statements with a list of keys, built once per SQL dialect."""

    transactions: Select[Any]
    entries: Select[Any]


@cache
def _statements_for(dialect: str) -> _Statements:
    sealed = select(ledger_leaves.c.position).where(ledger_leaves.c.transaction_id == transactions.c.id).exists()
    of_transactions = select(transactions).where(any_of(dialect, transactions.c.id, "ids"), ~sealed)
    of_entries = select(entries)
    if dialect == "postgresql":
        keys = key_rows(entries.c.account_id, entries.c.seq)
        on = and_(entries.c.account_id == keys.c.account_id, entries.c.seq == keys.c.seq)
        return _Statements(of_transactions, of_entries.join(keys, on))
    pairs = tuple_(entries.c.account_id, entries.c.seq).in_(bindparam("pairs", expanding=True))
    return _Statements(of_transactions, of_entries.where(pairs))
