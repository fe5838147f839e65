"""Verify a ledger with published roots and announced public keys. Needs only `cryptography`.

Usage: python verify_ledger.py LEDGER --key PUBLIC_KEY [--roots ROOTS.json …]
LEDGER is account-service's SQLite database (*.db), or an export: on each line {"table": NAME, "row": {COLUMN: VALUE}}.
ROOTS.json is a kept response of GET /api/v1/ledger/roots. Exits with 1 and names what was altered, in leaf order.
"""

import argparse
import json
import sqlite3
import sys
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import reduce
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Row = dict[str, Any]
Rows = sqlite3.Connection
PUBLIC = {"id", "type", "amount", "currency", "from_account", "to_account", "reference", "reverses", "created_at"}
KEYS = {  # the columns by which rows are found
    **{"accounts": ("id", "seq"), "transactions": ("id", "amount"), "entries": ("transaction_id", "seq")},
    **{"ledger_leaves": ("transaction_id", "position"), "ledger_roots": ("size", "size")},
}
TOLERANCE = timedelta(seconds=60)  # between the times of transactions and their order in the log


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text if "+" in text or "Z" in text else f"{text}Z").astimezone(UTC)


def plain(column: str, type_: str, value: Any) -> Any:
    """Return a value, not null, as it is in leaves; only SQLite has types here."""
    if column.endswith("_at"):
        return utc(value).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if column in ("salt", "data"):
        return value.hex() if isinstance(value, bytes) else value.removeprefix("\\x")
    if type_ == "CHAR(32)":
        return str(UUID(value))
    return json.loads(value) if type_ == "JSON" else value


def read(source: Path) -> Iterator[tuple[str, Row, dict[str, str]]]:
    """Yield table, columns and, of a database, their types for each row."""
    if source.suffix != ".db":
        with source.open("rb") as lines:
            for line in map(json.loads, lines):
                yield line["table"], line["row"], {}
        return
    database = sqlite3.connect(f"file:{quote(str(source.resolve()))}?mode=ro", uri=True)
    database.execute("BEGIN")
    for table in KEYS:
        types = {name: type_ for _, name, type_, *_ in database.execute(f"PRAGMA table_info({table})")}
        for values in database.execute(f"SELECT * FROM {table}"):  # nosec B608  # a name of KEYS
            yield table, dict(zip(types, values)), types


def load(source: Path) -> tuple[Rows, datetime]:
    """Return a temporary database with all rows, and the time of the export."""
    now, rows = datetime.now(UTC), sqlite3.connect("")
    rows.execute("CREATE TABLE rows (kind, id, position, row)")
    for table, raw, types in read(source):
        row = {key: plain(key, types.get(key, ""), value) for key, value in raw.items() if value is not None}
        if table == "export":
            now = utc(row["created_at"])
        elif table in KEYS:
            rows.execute("INSERT INTO rows VALUES (?, ?, ?, ?)", (table, *map(row.get, KEYS[table]), canonical(row)))
    rows.execute("CREATE INDEX by_id ON rows (kind, id, position)")
    return rows, now


def select(rows: Rows, condition: str, *values: Any) -> Iterator[Row]:
    statement = f"SELECT row FROM rows WHERE kind = {condition}"  # nosec B608  # conditions of this file
    return (json.loads(row) for (row,) in rows.execute(statement, values))


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def altered_row(rows: Rows, leaf: Row) -> str | None:
    """Return what differs between a leaf and the rows; None if nothing does."""
    name = f"transaction {leaf['transaction_id']}"
    transaction = next(select(rows, "'transactions' AND id = ?", leaf["transaction_id"]), None)
    if transaction is None:
        return f"{name} was deleted"
    entries = list(select(rows, "'entries' AND id = ?", leaf["transaction_id"]))
    entries.sort(key=lambda entry: (entry["account_id"], entry["seq"]))
    parts = [
        ("transaction", f"{name} was altered", {key: transaction[key] for key in transaction if key in PUBLIC}),
        ("internal", f"{name} was altered", {key: transaction[key] for key in transaction if key not in PUBLIC}),
        *(
            ("entry", f"entry {row['seq']} of account {row['account_id']} of {name} was altered", row)
            for row in entries
        ),
    ]
    if (count := len(leaf["data"]) // 64) != len(parts):
        return f"{name} has {len(entries)} entries instead of {count - 2}: one was inserted, deleted or moved"
    for index, (kind, finding, row) in enumerate(parts):
        salt = sha256(bytes.fromhex(leaf["salt"]) + bytes([index])).hexdigest()[:32]
        if sha256(canonical([salt, kind, row])).hexdigest() != leaf["data"][64 * index : 64 * index + 64]:
            return finding
    return None


def signed_root(note: str, keys: Iterable[str]) -> tuple[int, bytes] | None:
    """Return size and root of a checkpoint; None unless one of the keys has signed it."""
    text, _, signatures = note.partition("\n\n")
    for line in signatures.splitlines():
        signature = b64decode(line.rpartition(" ")[2])
        for origin, key_id, key in (key.split("+", 2) for key in keys):
            if text.startswith(f"{origin}\n") and signature[:4].hex() == key_id:
                with suppress(InvalidSignature):
                    Ed25519PublicKey.from_public_bytes(b64decode(key)[1:]).verify(signature[4:], f"{text}\n".encode())
                    return int(text.split("\n")[1]), b64decode(text.split("\n")[2])
    return None


def check_roots(rows: Rows, kept: Iterable[str], keys: Sequence[str], roots: dict[int, bytes]) -> Iterator[str]:
    """Yield what is wrong with the checkpoints, and add the valid ones to `roots`, by size."""
    stored = [root["checkpoint"] for root in select(rows, "'ledger_roots' ORDER BY position")]
    for note in [*kept, *stored]:
        root = signed_root(note, keys)
        if root is None or roots.setdefault(*root) != root[1]:
            yield f"the root of size {note.split()[1]} has no valid signature, or differs from the published one"
        elif note not in stored:
            yield f"the published root of size {root[0]} was deleted"


def check_leaves(rows: Rows, roots: dict[int, bytes]) -> Iterator[str]:
    """Yield what was altered: rows that differ from their leaf, and leaves that differ from the roots."""
    size, verified, last_event, tree = 0, 0, 0, list[bytes]()
    for leaf in select(rows, "'ledger_leaves' ORDER BY position"):
        if leaf["position"] != size or leaf["event_position"] <= last_event:
            yield f"leaf {leaf['position']}, transaction {leaf['transaction_id']}, was moved, or one before it deleted"
        elif finding := altered_row(rows, leaf):
            yield finding
        size, last_event = size + 1, leaf["event_position"]
        tree.append(sha256(b"\0" + bytes.fromhex(leaf["data"])).digest())
        for _ in range((size & -size).bit_length() - 1):  # once for each subtree that is complete now
            tree[-2:] = [node(*tree[-2:])]
        if size in roots:
            if reduce(lambda right, left: node(left, right), reversed(tree)) != roots[size]:
                yield f"leaves {verified} to {size - 1} were altered: they differ from the signed root of size {size}"
            verified = size
    if size < max(roots, default=0):
        yield f"the last leaves were deleted: there are {size}, and a signed root of size {max(roots)}"


def check_others(rows: Rows, now: datetime) -> Iterator[str]:
    """Yield rows without a leaf, and balances that differ from their entries."""
    without = "AND NOT EXISTS (SELECT 1 FROM rows other WHERE other.kind = '{}' AND other.id = rows.id)"
    sealed = rows.execute("SELECT id FROM rows WHERE kind = 'ledger_leaves' ORDER BY position DESC LIMIT 1").fetchone()
    last = next(select(rows, "'transactions' AND id = ?", *(sealed or [""])), {"created_at": "0001-01-02T00:00:00Z"})
    for row in select(rows, f"'transactions' {without.format('ledger_leaves')}"):
        if not utc(last["created_at"]) - TOLERANCE < utc(row["created_at"]) < now + TOLERANCE:
            yield f"transaction {row['id']} was inserted: it has no leaf"
    for row in select(rows, f"'entries' {without.format('transactions')}"):
        yield f"entry {row['seq']} of account {row['account_id']} was inserted: it has no transaction"
    sums: dict[str, tuple[int, int]] = {}
    for row in select(rows, "'entries'"):
        balance, count = sums.get(row["account_id"], (0, 0))
        sums[row["account_id"]] = balance + row["amount"], count + 1
    for row in select(rows, "'accounts'"):
        if (row["balance"], row["seq"]) != sums.get(row["id"], (0, 0)):
            yield f"balance or seq of account {row['id']} differs from its entries"


def verify_ledger(rows: Rows, now: datetime, kept: Iterable[str], keys: Sequence[str]) -> list[str]:
    """Return what was altered; `kept` are published checkpoints."""
    roots: dict[int, bytes] = {}
    return [*check_roots(rows, kept, keys, roots), *check_leaves(rows, roots), *check_others(rows, now)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="verify_ledger", description="Verify a ledger against signed roots.")
    parser.add_argument("ledger", type=Path, help="SQLite database or export")
    parser.add_argument("--key", action="append", required=True, help="announced public key")
    parser.add_argument("--roots", type=Path, action="append", default=[], help="kept response of /api/v1/ledger/roots")
    options = parser.parse_args()
    kept = [root["checkpoint"] for file in options.roots for root in json.loads(file.read_text("utf-8"))["items"]]
    findings = verify_ledger(*load(options.ledger), kept, options.key)
    print("\n".join(findings) or f"the ledger matches {len(kept)} kept roots and those that it has itself")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
