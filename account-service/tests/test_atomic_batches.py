"""Atomic batches of transfers: all of them are executed or none."""

import asyncio
from collections import Counter
from dataclasses import replace

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.queries import Queries
from app.application.requests import TransferBatch
from app.models import outbox
from app.service import AccountService
from shared.db.database import write_transaction
from tests.support import ALICE, key_header, ledger_request, open_account, transfer
from tests.test_api import create_account


async def test_an_atomic_batch_is_executed_as_a_whole_or_not_at_all(client: httpx.AsyncClient):
    source, target = await create_account(client, 10), await create_account(client)

    async def send(key: str, *amounts: int, atomic: bool | None = True) -> tuple[httpx.Response, list[tuple[int, str]]]:
        money = {"from_account": source, "to_account": target, "currency": "USD"}
        transfers = [{"key": f"part-{number}", "amount": amount, **money} for number, amount in enumerate(amounts)]
        body = {"transfers": transfers, "atomic": atomic}
        response = await client.post("/api/v1/transfers:batch", json=body, headers=key_header(key))
        assert response.status_code == 200
        results = response.json()["results"]
        return response, [(result["status"], result.get("problem", {}).get("code", "")) for result in results]

    async def balances() -> list[tuple[int, int]]:
        shown = [(await client.get(f"/api/v1/accounts/{account}")).json() for account in (source, target)]
        return [(account["balance"], account["seq"]) for account in shown]

    refused, outcomes = await send("batch-1", 4, 7, 1)
    assert outcomes == [(409, "batch-refused"), (409, "insufficient-funds"), (409, "batch-refused")]
    assert await balances() == [(10, 1), (0, 0)]
    again, _ = await send("batch-1", 4, 7, 1)
    assert (again.content, again.headers["idempotent-replayed"]) == (refused.content, "true")
    # The keys of the transfers are unused, so the corrected batch can use them.
    _, outcomes = await send("batch-2", 4, 6)
    assert outcomes == [(201, ""), (201, "")] and await balances() == [(0, 3), (10, 2)]
    replayed, outcomes = await send("batch-3", 4, 6)
    assert [result["replayed"] for result in replayed.json()["results"]] == [True, True]
    _, outcomes = await send("batch-4", 4, 5)
    assert outcomes == [(409, "batch-refused"), (422, "idempotency-key-reused")]
    assert await balances() == [(0, 3), (10, 2)]


async def test_a_refused_atomic_batch_leaves_its_neighbours_unchanged(
    service: AccountService, engine: AsyncEngine, queries: Queries
):
    """In one flush; only the refused transfer has an event."""
    source, target = await open_account(service, money=10), await open_account(service)
    items = tuple(ledger_request(transfer(source, target, amount)) for amount in (3, 4, 100))
    batch = replace(ledger_request(TransferBatch(items, atomic=True)), success_status=200)
    before, same_key = ledger_request(transfer(source, target, 1)), items[0]
    responses = await asyncio.gather(*(service.execute(request) for request in (before, batch, same_key)))
    assert [(response.status, response.replayed) for response in responses] == [
        (201, False),
        (200, False),
        (201, False),
    ]
    assert (await queries.account(ALICE, source))["balance"] == 10 - 1 - 3
    async with write_transaction(engine) as connection:
        await outbox.sequence(connection)
    async with engine.connect() as connection:
        events = [event for _, event in await outbox.read(connection, 0, 100)]
    kinds = Counter(event["type"] for event in events)
    assert kinds["bank.transaction.refused"] == 1
    # Two for the deposit and two for each of the neighbours.
    assert kinds["bank.entry.posted"] == 6
