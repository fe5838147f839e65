"""A superuser alters the ledger, with triggers off: the stand-alone verifier finds it and names the row."""

import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import BigInteger, Column, String, Uuid, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.sealer import Sealer
from app.domain.commands import Deposit
from app.models import entries, ledger_leaves, transactions
from app.service import AccountService
from app.settings import AccountSettings
from app.transparency.checkpoints import Signer
from scripts.ledger.verify_ledger import load, verify_ledger
from shared.db.database import UtcDateTime
from shared.ids import new_id
from shared.messaging.relay import Relay
from app.models import outbox

from shared.testing.paths import ROOT
from shared.testing.postgres import PostgresServer
from tests.support import OPERATOR_CALLER, ledger_request, open_account, transfer

EXPORT = ROOT / "scripts" / "ledger" / "export.sql"


def new_key() -> str:
    """Return a new private key in PEM."""
    kind = serialization.PrivateFormat.PKCS8
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


SIGNER = Signer("bank.test/ledger", new_key())
AT_ONCE = timedelta(0)


@dataclass
class Sealed:
    """A sealed ledger; its owner is the superuser, `kept` are the published roots."""

    owner: AsyncEngine
    file: Path
    postgres: PostgresServer | None
    kept: list[str]
    posted: list[str]

    async def tamper(self, *statements: str) -> None:
        """Execute statements without triggers and foreign keys."""
        if self.postgres is None:
            with sqlite3.connect(self.file) as database:
                for statement in statements:
                    database.execute(statement)
            database.close()
            return
        async with self.owner.begin() as connection:
            await connection.execute(text("SET LOCAL session_replication_role TO replica"))
            for statement in statements:
                await connection.execute(text(statement))

    def findings(self) -> list[str]:
        """Return what the verifier finds."""
        source = self.file
        if self.postgres is not None:
            psql = [str(self.postgres.program("psql")), "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", str(EXPORT)]
            url = self.owner.url.render_as_string(False).replace("+asyncpg", "")
            export = subprocess.run([*psql, url], check=True, capture_output=True).stdout
            source = self.file.with_suffix(".ndjson")
            source.write_bytes(export)
        rows, now = load(source)
        return verify_ledger(rows, now, self.kept, SIGNER.public_keys)

    def id(self, index: int) -> str:
        """Return the id of the n-th transaction, as SQL compares it."""
        return self.posted[index].replace("-", "") if self.postgres is None else self.posted[index]


async def without_pause(_seconds: float) -> None:
    """Go on at once."""


async def seal(engine: AsyncEngine, signer: Signer | None = SIGNER, interval: timedelta = AT_ONCE) -> None:
    """Assign positions to all events, and seal."""
    while await Relay(engine, outbox, None, "test").step():
        pass
    await Sealer(engine, signer, interval, pause=without_pause).run()


@pytest.fixture
async def ledger(
    request: pytest.FixtureRequest,
    owner: AsyncEngine,
    engine: AsyncEngine,
    settings: AccountSettings,
    database_url: str,
    tmp_path: Path,
) -> Sealed:
    """Deposits and transfers, with roots after some of them, and a reference that only JSON has to escape."""
    # Not the fixture `service`, which checks the ledger afterwards.
    service = AccountService(engine, settings)
    account, other = await open_account(service), await open_account(service)
    deposit = Deposit(new_id(), account, 10**12, "USD", 'a "quoted" ä\\\u2028🏦')
    await service.execute(ledger_request(deposit, OPERATOR_CALLER))
    posted = [deposit.id]
    for count in range(1, 8):
        payment = transfer(account, other, count)
        assert (await service.execute(ledger_request(payment))).status == 201
        posted.append(payment.id)
        if count % 3 == 0:
            await seal(engine)
    await seal(engine)
    async with engine.connect() as connection:
        kept = list(await connection.scalars(text("SELECT checkpoint FROM ledger_roots ORDER BY size")))
    await service.drain()
    is_postgres = database_url.startswith("postgresql")
    postgres = request.getfixturevalue("postgres") if is_postgres else None
    file = tmp_path / "export" if is_postgres else Path(database_url.removeprefix("sqlite+aiosqlite:///"))
    sealed = Sealed(owner, file, postgres, kept, posted)
    assert len(kept) == 3 and sealed.findings() == []
    return sealed


def changed(column: Column[Any], ledger: Sealed) -> str:
    """Return an SQL expression with another value."""
    is_sqlite = ledger.postgres is None
    if isinstance(column.type, Uuid):
        return f"'{new_id().replace('-', '') if is_sqlite else new_id()}'"
    if isinstance(column.type, BigInteger):
        return f"coalesce({column.name}, 0) + 1"
    if isinstance(column.type, UtcDateTime):
        return "'2026-01-02 03:04:05.000001'"
    assert isinstance(column.type, String), f"write how to alter {column}"
    return f"coalesce({column.name}, '') || 'x'" if column.name not in ("type", "currency") else "'x'"


@pytest.mark.parametrize("column", list(transactions.columns), ids=lambda column: column.name)
async def test_an_altered_column_of_a_transaction_is_found(ledger: Sealed, column: Column[Any]) -> None:
    await ledger.tamper(
        f"UPDATE transactions SET {column.name} = {changed(column, ledger)} WHERE id = '{ledger.id(4)}'"
    )
    assert ledger.findings()[0].startswith(f"transaction {ledger.posted[4]} was ")


@pytest.mark.parametrize("column", list(entries.columns), ids=lambda column: column.name)
async def test_an_altered_column_of_an_entry_is_found(ledger: Sealed, column: Column[Any]) -> None:
    new = changed(column, ledger).replace("+ 1", "+ 100")
    where = f"transaction_id = '{ledger.id(4)}' AND amount > 0"
    await ledger.tamper(f"UPDATE entries SET {column.name} = {new} WHERE {where}")
    assert ledger.posted[4] in ledger.findings()[0]


def delete_transaction(ledger: Sealed) -> list[str]:
    return [f"DELETE FROM transactions WHERE id = '{ledger.id(2)}'"]


def delete_entry(ledger: Sealed) -> list[str]:
    return [f"DELETE FROM entries WHERE transaction_id = '{ledger.id(2)}' AND amount > 0"]


def delete_everything(ledger: Sealed) -> list[str]:
    """Delete a transaction in all tables, and close the gap in the leaves."""
    return [
        *delete_transaction(ledger),
        f"DELETE FROM entries WHERE transaction_id = '{ledger.id(2)}'",
        f"DELETE FROM ledger_leaves WHERE transaction_id = '{ledger.id(2)}'",
    ]


def insert_entry(ledger: Sealed) -> list[str]:
    copy = "SELECT account_id, seq + 100, transaction_id, amount, balance_after FROM entries"
    return [f"INSERT INTO entries {copy} WHERE transaction_id = '{ledger.id(2)}' AND amount > 0"]


def swap_amounts(ledger: Sealed) -> list[str]:
    pair = f"('{ledger.id(2)}', '{ledger.id(3)}')"
    return [f"UPDATE transactions SET amount = 5 - amount WHERE id IN {pair}"]


def swap_leaves(ledger: Sealed) -> list[str]:
    return [
        "UPDATE ledger_leaves SET position = -1 WHERE position = 2",
        "UPDATE ledger_leaves SET position = 2 WHERE position = 3",
        "UPDATE ledger_leaves SET position = 3 WHERE position = -1",
    ]


@pytest.mark.parametrize(
    ("change", "index", "finding"),
    [
        (delete_transaction, 2, "was deleted"),
        (delete_entry, 2, "has 1 entries instead of 2"),
        (insert_entry, 2, "has 3 entries instead of 2"),
        (delete_everything, 3, "was moved, or one before it deleted"),
        (swap_amounts, 2, "was altered"),
        (swap_leaves, 2, "was moved"),
    ],
)
async def test_deleted_inserted_and_moved_rows_are_found(
    ledger: Sealed, change: Callable[[Sealed], list[str]], index: int, finding: str
) -> None:
    await ledger.tamper(*change(ledger))
    first = ledger.findings()[0]
    assert ledger.posted[index] in first and finding in first


@pytest.mark.parametrize("created_at", ["2026-01-02 03:04:05.000001", "2999-01-02 03:04:05.000001"])
async def test_an_inserted_transaction_is_found(ledger: Sealed, created_at: str) -> None:
    id_ = new_id()
    columns = "type, amount, currency, from_account, to_account"
    values = f"'{id_.replace('-', '') if ledger.postgres is None else id_}', '{created_at}', {columns}"
    copied = f"SELECT {values} FROM transactions WHERE id = '{ledger.id(3)}'"
    await ledger.tamper(f"INSERT INTO transactions (id, created_at, {columns}) {copied}")
    assert ledger.findings() == [f"transaction {id_} was inserted: it has no leaf"]


async def test_a_changed_balance_is_found(ledger: Sealed) -> None:
    await ledger.tamper("UPDATE accounts SET balance = balance + 1 WHERE kind = 'customer' AND balance < 100")
    assert ["balance or seq of account" in finding for finding in ledger.findings()] == [True]


async def test_leaves_rewritten_with_the_rows_differ_from_the_signed_roots(ledger: Sealed, owner: AsyncEngine) -> None:
    """The superuser computes new leaves as the service does, but cannot sign a root for them."""
    where = f"WHERE id = '{ledger.id(4)}'"
    await ledger.tamper(f"UPDATE transactions SET reference = 'forged' {where}", "DELETE FROM ledger_leaves")
    await seal(owner, None)
    # All salts are new.
    assert ledger.findings() == [
        "leaves 0 to 3 were altered: they differ from the signed root of size 4",
        "leaves 4 to 6 were altered: they differ from the signed root of size 7",
        "leaves 7 to 7 were altered: they differ from the signed root of size 8",
    ]


async def test_roots_signed_with_another_key_are_found(ledger: Sealed, owner: AsyncEngine) -> None:
    where = f"WHERE id = '{ledger.id(4)}'"
    changes = (f"UPDATE transactions SET reference = 'forged' {where}", "DELETE FROM ledger_leaves")
    await ledger.tamper(*changes, "DELETE FROM ledger_roots")
    await seal(owner, Signer("bank.test/ledger", new_key()))
    ledger.kept.clear()
    assert "the root of size 8 has no valid signature" in ledger.findings()[0]


async def test_the_last_leaves_cannot_be_deleted(ledger: Sealed) -> None:
    condition = f"transaction_id = '{ledger.id(7)}'"
    await ledger.tamper(
        f"DELETE FROM ledger_leaves WHERE {condition}",
        f"DELETE FROM entries WHERE {condition}",
        f"DELETE FROM transactions WHERE id = '{ledger.id(7)}'",
        "DELETE FROM ledger_roots WHERE size = 8",
    )
    assert "the published root of size 8 was deleted" in ledger.findings()
    assert "the last leaves were deleted: there are 7, and a signed root of size 8" in ledger.findings()


async def test_an_altered_salt_is_found(ledger: Sealed) -> None:
    zeros = "zeroblob(16)" if ledger.postgres is None else "decode(repeat('00', 16), 'hex')"
    await ledger.tamper(f"UPDATE ledger_leaves SET salt = {zeros} WHERE position = 5")
    assert ledger.findings()[0] == f"transaction {ledger.posted[5]} was altered"
    assert {column.name for column in ledger_leaves.columns} == {
        *("position", "transaction_id", "event_position", "salt", "data")
    }


def test_the_verifier_is_small_and_needs_little() -> None:
    source = (ROOT / "scripts" / "ledger" / "verify_ledger.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 200
    assert "from app" not in source and "from shared" not in source
