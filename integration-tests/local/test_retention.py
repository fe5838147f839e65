"""A bank whose outbox has been pruned: consumers catch up from the ledger, and the history can be rebuilt from it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from harness.client import eventually, usd
from harness.load import assert_exactly_once, retrying_transfers
from harness.local_stack import LocalBank
from sqlalchemy import MetaData, text

from shared.db.database import create_engine, write_transaction
from shared.messaging import retention
from shared.messaging.outbox import Outbox
from shared.messaging.relay import Relay
from shared.messaging.transport import NatsConnection
from shared.testing.local_stack import ACCOUNT, TRANSACTION
from shared.testing.paths import ROOT
from shared.testing.postgres import PostgresServer
from shared.testing.processes import Process

HISTORY = ("transactions", "accounts", "entries", "checkpoints", "consumed_positions")


def prune(bank: LocalBank, service: str, events_url: str) -> int:
    """Prune all published events, as the service's job does those beyond the retention; return the number of rows."""

    async def run() -> int:
        engine, outbox = create_engine(bank.stack.environment(service)["DATABASE_URL"]), Outbox(MetaData())
        relay = Relay(engine, outbox, NatsConnection(events_url) if events_url else None, service)
        try:
            return await retention.prune(engine, outbox, [relay.published], timedelta(0))
        finally:
            await engine.dispose()

    return asyncio.run(run())


def history(bank: LocalBank, *, delete: bool = False) -> set[tuple[Any, ...]]:
    """Return all rows of the history, each with its table; and delete them."""

    async def run() -> set[tuple[Any, ...]]:
        engine = create_engine(bank.stack.environment(TRANSACTION)["DATABASE_URL"])
        try:
            async with write_transaction(engine) as connection:
                rows = {
                    (table, *row)
                    for table in HISTORY[:3]
                    for row in await connection.execute(text(f"SELECT * FROM {table}"))  # nosec B608
                }
                for table in HISTORY if delete else ():
                    await connection.execute(text(f"DELETE FROM {table}"))  # nosec B608
                return rows
        finally:
            await engine.dispose()

    return asyncio.run(run())


def is_refused(row: tuple[Any, ...]) -> bool:
    """Return whether a row is of a refused transaction."""
    return "refused" in row[:4] or (row[0] == "entries" and row[3] is None)


@pytest.mark.parametrize("transport", ["feed", "NATS"])
def test_a_history_can_be_rebuilt_from_the_ledger_alone(
    make_bank: Callable[..., LocalBank], transport: str, request: pytest.FixtureRequest, tmp_path: Path
):
    if transport == "NATS":
        server: tuple[str, Process] = request.getfixturevalue("nats")
        postgres: PostgresServer = request.getfixturevalue("postgres")
        url, replicas = server[0], 2
        bank = make_bank(replicas, [postgres.create_database(f"{tmp_path.name}_{name}") for name in "at"], url)
    else:
        url, replicas = "", 1
        bank = make_bank()

    source, target = bank.open_account(1_000_000), bank.open_account()
    with retrying_transfers(bank, source, target) as transfers:
        for count in (30, 60):
            eventually(lambda: len(transfers.acknowledged) > count)
            prune(bank, ACCOUNT, url)
    assert transfers.errors == []
    refusal = bank.post(f"/accounts/{target}/withdrawals", usd(10_000_000))
    assert refusal.status_code == 409
    assert_exactly_once(bank, transfers, source, target, 1_000_000)
    eventually(lambda: len([row for row in history(bank) if is_refused(row)]) == 2)
    before = history(bank)
    bank.post(f"/accounts/{target}/deposits", usd(1))
    assert prune(bank, ACCOUNT, url) > 0

    for index in range(replicas):
        bank.stack.kill(TRANSACTION, index, signal.SIGTERM)
    history(bank, delete=True)
    for index in range(replicas):
        bank.stack.restart(TRANSACTION, index)
    posted = {row for row in before if not is_refused(row)}
    eventually(lambda: posted <= history(bank))
    report = bank.reconciliation()
    assert (report["mismatches"], report["pending"]) == (0, 0)

    bank.post(f"/accounts/{target}/withdrawals", usd(10_000_000))
    eventually(lambda: any(is_refused(row) for row in history(bank)))
    before = history(bank)
    environment = {**os.environ, "VAR_DIR": str(bank.stack.var_dir)}
    with retrying_transfers(bank, source, target) as transfers:
        command = [sys.executable, "-m", "scripts.local.run", "--rebuild"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        eventually(lambda: len(transfers.acknowledged) > 10)
    assert before <= history(bank), "refusals as well"
    report = bank.reconciliation()
    assert (report["mismatches"], report["pending"]) == (0, 0)
    statement = bank.get(f"/statements/{target}")
    assert statement["complete"] and statement["closing_balance"] == bank.balance(target)
