"""The service on real databases: concurrency, idempotency, replicas, and isolation of invalid rows."""

import asyncio
import collections
import contextlib
import json
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application import batches, flush
from app.application.queries import Queries
from app.application.requests import EVENT_SUBJECT, SYSTEM, LedgerRequest, LedgerResponse, RequestContext, TransferBatch
from app.domain.commands import CaptureHold, PlaceHold, Reverse, SetStatus
from app.jobs import purge_expired_keys, release_expired_holds
from app.models import idempotency_keys, outbox
from app.service import AccountService
from app.settings import AccountSettings
from app.storage.invariants import broken_invariants
from shared.db.database import create_engine, write_transaction
from shared.ids import new_id, utc_now
from shared.http.problems import Problem
from shared.testing.timing import StoppedClock
from tests.support import (
    ALICE,
    BOB,
    OPERATOR_CALLER,
    assert_invariants,
    ledger_request,
    open_account,
    transfer,
    withdraw,
)


async def balance(queries: Queries, account: str) -> int:
    return int((await queries.account(OPERATOR_CALLER, account))["balance"])


def code(response: LedgerResponse) -> str:
    return str(json.loads(response.body)["code"])


@pytest.fixture(params=[1, 2], ids=["one replica", "two replicas"])
async def replicas(request: pytest.FixtureRequest, service: AccountService, settings: AccountSettings):
    """One or two services on the same database, each with its own connection pool."""
    engines = [create_engine(settings.database_url) for _ in range(request.param - 1)]
    yield [service, *(AccountService(engine, settings) for engine in engines)]
    for engine in engines:
        await engine.dispose()


@pytest.mark.parametrize(("attempts", "succeed"), [(80, 80), (200, 100)])
async def test_concurrent_withdrawals_never_overdraw(
    replicas: list[AccountService], attempts: int, succeed: int, queries: Queries
):
    account = await open_account(replicas[0], money=1000)

    responses = await asyncio.gather(
        *(replicas[n % len(replicas)].execute(ledger_request(withdraw(account, 10))) for n in range(attempts))
    )

    assert collections.Counter(response.status for response in responses) == collections.Counter(
        {201: succeed, 409: attempts - succeed}
    )
    assert {code(response) for response in responses if response.status == 409} <= {"insufficient-funds"}
    assert await balance(queries, account) == 1000 - 10 * succeed


async def test_fifty_concurrent_requests_with_one_key_have_one_effect(replicas: list[AccountService], queries: Queries):
    source, target = await open_account(replicas[0], money=1000), await open_account(replicas[0])

    async def send(n: int) -> int | str:
        try:
            response = await replicas[n % len(replicas)].execute(
                ledger_request(transfer(source, target, 100), key="same")
            )
        except Problem as problem:
            return problem.code
        return "replayed" if response.replayed else response.status

    outcomes = collections.Counter(await asyncio.gather(*(send(n) for n in range(50))))

    assert outcomes[201] == 1
    assert set(outcomes) <= {201, "replayed", "request-in-progress"}
    assert await balance(queries, target) == 100
    replay = await replicas[-1].execute(ledger_request(transfer(source, target, 100), key="same"))
    assert replay.replayed and replay.status == 201


async def test_opposite_transfers_do_not_deadlock(replicas: list[AccountService], queries: Queries):
    accounts = [await open_account(replicas[0], money=1000) for _ in range(4)]
    pairs = [(a, b) for a in accounts for b in accounts if a != b] * 10

    responses = await asyncio.gather(
        *(replicas[n % len(replicas)].execute(ledger_request(transfer(a, b, 1))) for n, (a, b) in enumerate(pairs))
    )

    assert {response.status for response in responses} == {201}
    assert [await balance(queries, account) for account in accounts] == [1000] * 4


async def test_a_replay_returns_the_first_response_byte_for_byte(service: AccountService, queries: Queries):
    source, target = await open_account(service, money=50), await open_account(service)
    for amount in (20, 500):
        first = await service.execute(ledger_request(transfer(source, target, amount), key=f"k{amount}"))
        again = await service.execute(ledger_request(transfer(source, target, amount), key=f"k{amount}"))
        assert (again.status, again.body, again.replayed) == (first.status, first.body, True)
    assert await balance(queries, target) == 20


async def test_a_refusal_is_replayed_after_money_has_arrived(service: AccountService):
    source, target = await open_account(service), await open_account(service, money=500)
    refused = await service.execute(ledger_request(transfer(source, target, 10), key="refused"))
    await service.execute(ledger_request(transfer(target, source, 100)))

    assert refused.status == 409
    assert (await service.execute(ledger_request(transfer(source, target, 10), key="refused"))).body == refused.body


async def test_a_key_belongs_to_one_request_and_one_caller(service: AccountService, queries: Queries):
    alices, bobs = await open_account(service, money=100), await open_account(service, BOB, money=100)
    await service.execute(ledger_request(transfer(alices, bobs, 10), key="k", content=b"one"))

    other = await service.execute(ledger_request(transfer(alices, bobs, 20), key="k", content=b"two"))
    bob = await service.execute(ledger_request(transfer(bobs, alices, 5), BOB, key="k"))

    assert (other.status, code(other)) == (422, "idempotency-key-reused")
    assert bob.status == 201
    assert await balance(queries, alices) == 95


async def test_batch_items_have_their_own_keys_and_results(service: AccountService, queries: Queries):
    source, target = await open_account(service, money=100), await open_account(service)
    single = await service.execute(ledger_request(transfer(source, target, 1), key="single"))

    def item(key: str, amount: int, content: bytes = b"hash") -> LedgerRequest:
        return ledger_request(transfer(source, target, amount), key=key, content=content)

    items = (item("single", 1), item("a", 10), item("a", 10), item("a", 11, b"other"), item("b", 10**6), item("c", 5))
    batch = LedgerRequest(ALICE, TransferBatch(items), 200, RequestContext("/batch"), ("alice", "batch"), b"batch")
    response = await service.execute(batch)
    results = json.loads(response.body)["results"]

    assert [(result["key"], result["status"], result["replayed"]) for result in results] == [
        ("single", 201, True),
        ("a", 201, False),
        ("a", 201, True),
        ("a", 422, False),
        ("b", 409, False),
        ("c", 201, False),
    ]
    assert results[0]["transaction"] == json.loads(single.body)
    assert results[4]["problem"]["code"] == "insufficient-funds"
    assert await balance(queries, target) == 16
    assert (await service.execute(batch)).replayed
    assert (await service.execute(ledger_request(transfer(source, target, 5), key="c"))).replayed


async def test_reversals_holds_and_expiry(service: AccountService, queries: Queries, engine: AsyncEngine):
    alice, bob = await open_account(service, money=1000), await open_account(service, BOB)
    paid = json.loads((await service.execute(ledger_request(transfer(alice, bob, 300)))).body)

    payer = await service.execute(ledger_request(Reverse(new_id(), paid["id"], None)))
    payee = await service.execute(ledger_request(Reverse(new_id(), paid["id"], "returned"), BOB))
    twice = await service.execute(ledger_request(Reverse(new_id(), paid["id"], None), BOB))
    assert (code(payer), payee.status, code(twice)) == ("forbidden", 201, "already-reversed")
    assert json.loads(payee.body)["reverses"] == paid["id"]

    hold = new_id()
    later = utc_now() + timedelta(hours=1)
    await service.execute(ledger_request(PlaceHold(hold, alice, 400, "USD", later)))
    assert (await queries.account(ALICE, alice))["available"] == 600
    assert code(await service.execute(ledger_request(withdraw(alice, 601)))) == "insufficient-funds"
    captured = json.loads((await service.execute(ledger_request(CaptureHold(new_id(), hold, 150)))).body)
    assert (captured["status"], captured["captured_amount"], captured["transaction"]["amount"]) == (
        "captured",
        150,
        150,
    )
    assert code(await service.execute(ledger_request(CaptureHold(new_id(), hold, 1)))) == "hold-not-active"

    for life in (-1, -2):
        await service.execute(
            ledger_request(PlaceHold(new_id(), alice, 100, "USD", utc_now() + timedelta(seconds=life)))
        )
    assert (await queries.account(ALICE, alice))["held"] == 200
    assert await release_expired_holds(engine, service) == 2
    assert await release_expired_holds(engine, service) == 0
    account = await queries.account(ALICE, alice)
    assert (account["balance"], account["held"]) == (850, 0)


async def test_a_new_replica_captures_a_hold(service: AccountService, engine: AsyncEngine, settings: AccountSettings):
    alice, hold = await open_account(service, money=1000), new_id()
    await service.execute(ledger_request(PlaceHold(hold, alice, 400, "USD", utc_now() + timedelta(hours=1))))

    captured = await AccountService(engine, settings).execute(ledger_request(CaptureHold(new_id(), hold, None)))

    assert captured.status == 201 and json.loads(captured.body)["captured_amount"] == 400
    await assert_invariants(engine)


async def test_a_batch_cannot_share_its_key_with_one_of_its_transfers(
    service: AccountService, engine: AsyncEngine, queries: Queries
):
    source, target = await open_account(service, money=100), await open_account(service)
    items = tuple(ledger_request(transfer(source, target, 10), key=key) for key in ("first", "batch"))
    batch = LedgerRequest(ALICE, TransferBatch(items), 200, RequestContext("/batch"), ("alice", "batch"), b"batch")

    responses = await asyncio.gather(
        service.execute(batch), service.execute(ledger_request(transfer(source, target, 1)))
    )

    assert code(responses[0]) == "idempotency-key-reused" and responses[1].status == 201, "the other request succeeds"
    assert await balance(queries, target) == 1
    assert not (
        await service.execute(ledger_request(transfer(source, target, 2), key="first"))
    ).replayed, "no key was stored"
    await assert_invariants(engine)


async def test_a_refused_reversal_publishes_an_event(service: AccountService, engine: AsyncEngine):
    alice = await open_account(service, money=100)
    paid = json.loads((await service.execute(ledger_request(withdraw(alice, 100)))).body)
    await service.execute(ledger_request(SetStatus(alice, "closed"), OPERATOR_CALLER))

    refused = await service.execute(ledger_request(Reverse(new_id(), paid["id"], None), OPERATOR_CALLER))

    assert code(refused) == "account-closed"
    async with write_transaction(engine) as connection:
        await outbox.sequence(connection)
        event = [row for _, row in await outbox.read(connection, 0, 100)][-1]["data"]
    assert (event["account_id"], event["type"], event["direction"]) == (alice, "reversal", "credit")


async def test_accounts_that_are_not_visible_are_not_found(
    service: AccountService, queries: Queries, engine: AsyncEngine
):
    alices, bobs = await open_account(service, money=100), await open_account(service, BOB, money=100)
    async with engine.connect() as connection:
        cash = (await connection.scalars(text("SELECT id FROM accounts WHERE kind = 'cash'"))).one()
    cash = cash if "-" in str(cash) else f"{cash[:8]}-{cash[8:12]}-{cash[12:16]}-{cash[16:20]}-{cash[20:]}"

    with pytest.raises(Problem, match="not-found"):
        await queries.account(BOB, alices)
    for command in (transfer(bobs, alices, 1), transfer(str(cash), alices, 1), transfer(alices, str(cash), 1)):
        assert code(await service.execute(ledger_request(command))) == "not-found"
    assert [account.id for account in await queries.accounts(BOB, None, 10)] == [bobs]
    assert len(await queries.accounts(OPERATOR_CALLER, None, 10)) == 2
    paid = json.loads((await service.execute(ledger_request(transfer(alices, bobs, 1)))).body)
    shown = {entry["account_id"]: entry["balance_after"] for entry in paid["entries"]}
    assert shown == {alices: 99, bobs: None}


async def test_events_are_written_with_their_effect(service: AccountService, engine: AsyncEngine):
    source, target = await open_account(service, money=100), await open_account(service)
    await service.execute(ledger_request(transfer(source, target, 30)))
    await service.execute(ledger_request(transfer(source, target, 500)))
    await service.execute(ledger_request(SetStatus(source, "frozen"), OPERATOR_CALLER, key=None))
    async with write_transaction(engine) as connection:
        await outbox.sequence(connection)
    async with engine.connect() as connection:
        events = [event for _, event in await outbox.read(connection, 0, 100)]

    assert [event["type"] for event in events] == [
        "bank.account.opened",
        "bank.entry.posted",
        "bank.entry.posted",
        "bank.account.opened",
        "bank.entry.posted",
        "bank.entry.posted",
        "bank.transaction.refused",
        "bank.account.frozen",
    ]
    assert [event["data"]["amount"] for event in events[4:7]] == [-30, 30, 500]
    assert events[6]["data"]["code"] == "insufficient-funds" and events[6]["requestid"] == "request-1"


async def test_one_invalid_row_does_not_fail_its_batch(service: AccountService, queries: Queries):
    source, target = await open_account(service, money=100), await open_account(service)
    bad = transfer(source, target, 1)
    used = json.loads((await service.execute(ledger_request(bad))).body)["id"]
    assert used == bad.id

    # A duplicate transaction id: the database rejects the row, and the whole statement with it.
    outcomes = await asyncio.gather(
        *(service.execute(ledger_request(transfer(source, target, 2))) for _ in range(5)),
        service.execute(ledger_request(bad)),
        *(service.execute(ledger_request(transfer(source, target, 2))) for _ in range(5)),
        return_exceptions=True,
    )

    assert [isinstance(result, LedgerResponse) for result in outcomes] == [True] * 5 + [False] + [True] * 5
    assert await balance(queries, target) == 21


async def test_a_lost_connection_fails_the_batch_without_effect(
    service: AccountService, monkeypatch: pytest.MonkeyPatch, queries: Queries
):
    source, target = await open_account(service, money=100), await open_account(service)
    calls = 0

    async def unreachable(*_arguments: object) -> None:
        nonlocal calls
        calls += 1
        raise OperationalError("COMMIT", None, OSError("connection lost"))

    with monkeypatch.context() as patched:
        patched.setattr(flush, "write_all", unreachable)
        outcomes = await asyncio.gather(
            *(service.execute(ledger_request(transfer(source, target, 1))) for _ in range(8)), return_exceptions=True
        )
    assert {type(result) for result in outcomes} == {OperationalError}
    assert calls == 1, "a batch is not split during an outage"
    assert await balance(queries, target) == 0


async def test_a_batch_that_waits_for_a_lock_too_long_is_neither_repeated_nor_split(
    service: AccountService, monkeypatch: pytest.MonkeyPatch, queries: Queries
):
    """Each attempt waits for the lock timeout, while all later requests of the replica wait behind it."""
    source, target = await open_account(service, money=100), await open_account(service)
    clock, calls = StoppedClock(), 0

    class LockNotAvailable(Exception):
        sqlstate = "55P03"

    async def locked(*_arguments: object) -> None:
        nonlocal calls
        calls += 1
        clock.sleep(10)
        raise DBAPIError("UPDATE", None, LockNotAvailable())

    with monkeypatch.context() as patched:
        patched.setattr(flush, "write_all", locked)
        patched.setattr(batches, "time", clock)
        outcomes = await asyncio.gather(
            *(service.execute(ledger_request(transfer(source, target, 1))) for _ in range(8)), return_exceptions=True
        )
    assert {type(result) for result in outcomes} == {DBAPIError}
    assert calls == 1
    assert await balance(queries, target) == 0


async def test_a_full_queue_and_a_stopping_service_respond_503(engine: AsyncEngine, settings: AccountSettings):
    service = AccountService(engine, settings.model_copy(update={"group_commit_max_waiting": 3}))
    account = await open_account(service, money=100)

    async def send() -> str:
        try:
            return str((await service.execute(ledger_request(withdraw(account, 1)))).status)
        except Problem as problem:
            assert problem.headers["Retry-After"] == "1"
            return problem.code

    outcomes = collections.Counter(await asyncio.gather(*(send() for _ in range(10))))
    assert outcomes == {"201": 3, "unavailable": 7}
    await service.drain()
    assert await send() == "unavailable"
    await assert_invariants(engine)


async def test_expired_keys_are_purged_except_those_of_events(
    service: AccountService, engine: AsyncEngine, owner: AsyncEngine, settings: AccountSettings
):
    source, target = await open_account(service, money=100), await open_account(service)
    await service.execute(ledger_request(transfer(source, target, 1), key="old"))
    freeze = LedgerRequest(
        SYSTEM, SetStatus(source, "frozen"), 200, RequestContext("/events"), (EVENT_SUBJECT, "flag-1"), b"hash"
    )
    await service.execute(freeze)
    async with write_transaction(owner) as connection:
        past = utc_now() - timedelta(days=settings.idempotency_retention_days + 1)
        await connection.execute(idempotency_keys.update().values(created_at=past))

    await purge_expired_keys(engine, settings.idempotency_retention_days)

    async with engine.connect() as connection:
        left = (await connection.scalars(text("SELECT key FROM idempotency_keys"))).all()
    assert left == ["flag-1"]
    assert (await service.execute(freeze)).replayed


async def test_a_corrupted_balance_is_detected(
    service: AccountService, engine: AsyncEngine, owner: AsyncEngine, queries: Queries
):
    account = await open_account(service, money=100)
    if owner.dialect.name == "postgresql":
        async with write_transaction(owner) as connection:
            # An owner of the tables can disable the trigger.
            await connection.execute(text("ALTER TABLE entries DISABLE TRIGGER append_only"))
    assert set((await queries.imbalance()).values()) == {0}
    async with write_transaction(owner) as connection:
        await connection.execute(text("UPDATE accounts SET balance = balance + 7 WHERE kind = 'customer'"))
    async with engine.connect() as connection:
        broken = await broken_invariants(connection)
    assert await queries.imbalance() == {"USD": 7}
    assert {line.partition(":")[0] for line in broken} == {
        "a balance differs from the sum of its entries",
        "balances of a currency do not sum to zero",
    }
    async with write_transaction(owner) as connection:
        await connection.execute(text("UPDATE accounts SET balance = balance - 7 WHERE kind = 'customer'"))
        await connection.execute(text("UPDATE entries SET balance_after = balance_after + 1 WHERE amount > 0"))
    async with engine.connect() as connection:
        broken = await broken_invariants(connection)
    assert [line.partition(":")[0] for line in broken] == ["the balance_after chain is broken"]
    async with write_transaction(owner) as connection:
        await connection.execute(text("UPDATE entries SET balance_after = balance_after - 1 WHERE amount > 0"))
    assert await balance(queries, account) == 100


async def test_a_cash_account_that_was_rolled_back_is_not_cached(
    service: AccountService, monkeypatch: pytest.MonkeyPatch, queries: Queries
):
    @contextlib.asynccontextmanager
    async def failing(engine: AsyncEngine):
        async with write_transaction(engine) as connection:
            yield connection
            raise OSError("the database is gone")

    monkeypatch.setattr(batches, "write_transaction", failing)
    with pytest.raises(OSError):
        await open_account(service)
    monkeypatch.undo()

    account = await open_account(service, money=5)

    assert await balance(queries, account) == 5
