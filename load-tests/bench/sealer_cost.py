"""Measure what sealing the ledger costs: PYTHONPATH=account-service:. python load-tests/bench/sealer_cost.py

Clients post transfers through the group commit, without HTTP, to a new PostgreSQL database: in turn with the sealer and
without it. Prints the throughput of each round, and the median of the losses.
"""

import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

from app.application.account_numbers import new_account_number
from app.application.requests import LedgerRequest, RequestContext
from app.application.sealer import Sealer
from app.domain.commands import Command, Deposit, OpenAccount, Transfer
from app.models import metadata, outbox
from app.service import AccountService
from app.settings import AccountSettings
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.database import create_engine
from shared.http.auth import OPERATOR, Caller
from shared.ids import new_id
from shared.messaging.relay import Relay
from shared.testing import lab_keys
from shared.testing.fixtures import create_tables
from shared.testing.postgres import PostgresServer

_ROUNDS = 9
_TRANSFERS = 4000
_CLIENTS = 64
_ACCOUNTS = 200
_MAX_LOSS = 0.05
_CALLER = Caller("bench", frozenset({OPERATOR}))


def _request(command: Command) -> LedgerRequest:
    key = uuid.uuid4().hex
    return LedgerRequest(_CALLER, command, 201, RequestContext("/bench", key), (_CALLER.subject, key), key.encode())


async def _open_accounts(service: AccountService) -> list[str]:
    ids = [new_id() for _ in range(_ACCOUNTS)]
    for id_ in ids:
        await service.execute(_request(OpenAccount(id_, new_account_number(), "USD", None)))
        await service.execute(_request(Deposit(new_id(), id_, 10**9, "USD", None)))
    return ids


async def _post(service: AccountService, accounts: list[str]) -> None:
    async def client(number: int) -> None:
        for count in range(_TRANSFERS // _CLIENTS):
            payer, payee = accounts[(number + count) % _ACCOUNTS], accounts[(number + 7 * count + 1) % _ACCOUNTS]
            if payer != payee:
                command = Transfer(new_id(), payer, payee, 1, "USD", "invoice 2026-1234")
                assert (await service.execute(_request(command))).status == 201

    await asyncio.gather(*map(client, range(_CLIENTS)))


async def _seal(sealer: Sealer, seconds: float) -> None:
    while True:
        await sealer.run()
        await asyncio.sleep(seconds)


async def _throughput(service: AccountService, accounts: list[str], *background: Coroutine[Any, Any, None]) -> float:
    tasks = [asyncio.create_task(each) for each in background]
    started = time.monotonic()
    await _post(service, accounts)
    rate = _TRANSFERS / (time.monotonic() - started)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return rate


async def _measure(engine: AsyncEngine, settings: AccountSettings) -> list[float]:
    """Return the loss of throughput of each round."""
    service, relay = AccountService(engine, settings), Relay(engine, outbox, None, "bench")
    sealer = Sealer(engine, settings.signer, timedelta(seconds=settings.ledger_root_seconds))
    accounts = await _open_accounts(service)
    await _throughput(service, accounts, relay.run())
    losses = []
    for _ in range(_ROUNDS):
        without = await _throughput(service, accounts, relay.run())
        sealing = await _throughput(service, accounts, relay.run(), _seal(sealer, settings.ledger_seal_seconds))
        losses.append(1 - sealing / without)
        print(f"{without:.0f} transfers/s without the sealer, {sealing:.0f} with it: {losses[-1]:+.1%}")
    await service.drain()
    return losses


async def _run(settings: AccountSettings) -> float:
    await create_tables(settings.database_url, metadata)
    engine = create_engine(settings.database_url)
    try:
        return statistics.median(await _measure(engine, settings))
    finally:
        await engine.dispose()


def main() -> int:
    """Measure, and return 0 only if the threshold is met."""
    with tempfile.TemporaryDirectory() as folder, PostgresServer({"shared_buffers": "256MB"}) as postgres:
        lab = lab_keys.ensure(Path(folder))
        settings = AccountSettings(
            database_url=postgres.create_database("bench"),
            auth_jwks=str(lab.jwks),
            service_token=lab.service_token.read_text(encoding="utf-8"),
            ledger_signing_key=lab.ledger_key.read_text(encoding="utf-8"),
            subject_operations_per_second=0,
        )
        loss = asyncio.run(_run(settings))
    is_met = loss <= _MAX_LOSS
    print(f"loss of throughput, at most {_MAX_LOSS:.0%}: {loss:+.1%} {'met' if is_met else 'missed'}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
