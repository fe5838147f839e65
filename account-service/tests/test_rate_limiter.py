"""Limits per subject, and the compact storage and replay of refusals."""

import json

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.rate_limiter import QueueQuota, RateLimiter
from app.application.requests import LedgerRequest, RequestContext, TransferBatch
from app.models import idempotency_keys
from app.service import AccountService
from app.settings import AccountSettings
from shared.db.database import write_transaction
from shared.http.problems import Problem
from tests.support import ALICE, BOB, OPERATOR_CALLER, key_header, ledger_request, open_account, transfer, withdraw
from tests.test_api import assert_problem, create_account


def retry_after(limiter: RateLimiter, subject: str, operations: int) -> int:
    """Return the Retry-After of the operations; 0 if they are allowed."""
    try:
        limiter.acquire(subject, operations)
    except Problem as problem:
        assert problem.code == "rate-limited"
        return int(problem.headers["Retry-After"])
    return 0


def test_one_subject_cannot_fill_the_queue() -> None:
    quota = QueueQuota(2000)
    with quota.reserve("alice", 1500):
        with pytest.raises(Problem, match="rate-limited"), quota.reserve("alice", 501):
            pass
        with quota.reserve("alice", 500), quota.reserve("bob", 3000):
            pass
    with quota.reserve("alice", 3000):
        pass


def test_token_bucket_allows_a_burst_then_the_average_rate() -> None:
    now = [0.0]
    limiter = RateLimiter(10, 1000, lambda: now[0])
    assert [retry_after(limiter, "alice", operations) for operations in (999, 1, 1, 1000)] == [0, 0, 1, 100]
    assert retry_after(limiter, "bob", 1000) == 0, "each subject has its own bucket"
    now[0] = 0.1
    assert [retry_after(limiter, "alice", 1) for _ in range(2)] == [0, 1]
    now[0] = 10**6
    assert [retry_after(limiter, "alice", operations) for operations in (1000, 1)] == [
        0,
        1,
    ], "tokens are capped at the burst"


def test_zero_disables_the_limit_and_buckets_are_evicted() -> None:
    assert all(retry_after(RateLimiter(0, 1000), "alice", 1000) == 0 for _ in range(100))
    limiter = RateLimiter(1, 1000)
    for number in range(10_100):
        limiter.acquire(str(number), 1)
    assert len(limiter._buckets) == 10_000


async def test_a_batch_counts_as_its_transfers_and_a_429_stores_no_key(
    engine: AsyncEngine, settings: AccountSettings
) -> None:
    limits = {"subject_operations_per_second": 0.001, "subject_operations_burst": 5}
    service = AccountService(engine, settings.model_copy(update=limits))
    source, target = await open_account(service, money=10), await open_account(service)

    def batch(key: str, size: int) -> LedgerRequest:
        items = tuple(ledger_request(transfer(source, target, 1)) for _ in range(size))
        return LedgerRequest(ALICE, TransferBatch(items), 200, RequestContext("/batch"), ("alice", key), b"batch")

    with pytest.raises(Problem, match="rate-limited"):
        await service.execute(batch("large", 4))
    assert (await service.execute(batch("small", 3))).status == 200
    with pytest.raises(Problem, match="rate-limited"):
        await service.execute(ledger_request(withdraw(source, 1), key="later"))
    assert (await service.execute(ledger_request(withdraw(source, 1), OPERATOR_CALLER))).status == 201
    assert (await service.execute(ledger_request(withdraw(source, 1), BOB))).status == 404
    async with engine.connect() as connection:
        kept = (await connection.scalars(select(idempotency_keys.c.key))).all()
    assert "later" not in kept and "large" not in kept
    other = AccountService(engine, settings)
    later = await other.execute(ledger_request(withdraw(source, 1), key="later"))
    assert (later.status, later.replayed) == (201, False)


async def test_rate_limited_requests_get_429(
    client: httpx.AsyncClient, application, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await create_account(client, 10)
    monkeypatch.setattr(application.app.state.service, "_rate_limiter", RateLimiter(0.1, 2, lambda: 0))
    money = {"amount": 1, "currency": "USD"}
    path = f"/api/v1/accounts/{account}/withdrawals"
    responses = [await client.post(path, json=money, headers=key_header()) for _ in range(3)]
    assert [response.status_code for response in responses] == [201, 201, 429]
    assert_problem(responses[2], 429, "rate-limited")
    assert responses[2].headers["retry-after"] == "10"
    # Invalid requests are limited too: they read the database.
    assert_problem(await client.post(path, json={}, headers=key_header()), 429, "rate-limited")


async def test_refusals_are_replayed_byte_for_byte(client: httpx.AsyncClient) -> None:
    source, target = await create_account(client, 10), await create_account(client)
    item = {"from_account": source, "to_account": target, "amount": 50, "currency": "USD"}
    batch = {"transfers": [{"key": "a", **item}, {"key": "b", **item, "amount": 1}, {"key": "single", **item}]}
    requests = [("/api/v1/transfers", item, "single"), ("/api/v1/transfers:batch", batch, "batch")]
    first = [await client.post(path, json=body, headers=key_header(key)) for path, body, key in requests]
    assert [result["status"] for result in first[1].json()["results"]] == [409, 201, 409]
    assert first[1].json()["results"][0]["problem"]["request_id"] == first[1].headers["x-request-id"]
    for (path, body, key), before in zip(requests, first):
        again = await client.post(path, json=body, headers=key_header(key))
        assert (again.status_code, again.content) == (before.status_code, before.content)
    alone = await client.post("/api/v1/transfers", json=item, headers=key_header("a"))
    assert assert_problem(alone, 409, "insufficient-funds")["instance"] == "/api/v1/transfers"


async def test_refusals_stored_by_the_previous_version_are_replayed(
    service: AccountService, owner: AsyncEngine
) -> None:
    account = await open_account(service)
    first = await service.execute(ledger_request(withdraw(account, 1), key="old"))
    async with write_transaction(owner) as connection:
        whole = idempotency_keys.update().where(idempotency_keys.c.key == "old").values(body=first.body)
        await connection.execute(whole)
    assert (await service.execute(ledger_request(withdraw(account, 1), key="old"))).body == first.body


async def test_refusals_are_stored_compactly(service: AccountService, engine: AsyncEngine) -> None:
    source, target = await open_account(service), await open_account(service)
    items = tuple(ledger_request(transfer(source, target, 10**6), key=f"item-{n}") for n in range(100))
    trace = RequestContext("/api/v1/transfers:batch", "request-1")
    response = await service.execute(
        LedgerRequest(ALICE, TransferBatch(items), 200, trace, ("alice", "batch"), b"batch")
    )
    async with engine.connect() as connection:
        size = func.sum(func.length(idempotency_keys.c.body))
        refused = await connection.scalar(select(size).where(idempotency_keys.c.status == 409))
        batch = await connection.scalar(select(size).where(idempotency_keys.c.key == "batch"))
    assert refused is not None and refused <= 100 * 110
    assert batch is not None and batch <= 100 * 170
    assert json.loads(response.body)["results"][0]["problem"]["type"] == "/problems/insufficient-funds"
