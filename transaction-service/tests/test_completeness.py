"""Completeness: on plain data, and on both databases with a ledger that is ahead."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app import ledger_client as ledger_client_module
from app.application.ingestion import EventIngestion
from app.application.reconciler import Reconciler
from app.domain import reconciliation
from app.domain.completeness import CLOCK_MARGIN, GaplessRange, LedgerAccount, LedgerState, complete_through, watermark
from app.domain.reconciliation import Balance
from app.ledger_client import LedgerClient
from app.models import checkpoints
from app.service import TransactionService
from app.settings import TransactionSettings
from app.storage.ranges import gapless_ranges
from app.storage.queries import TransactionFilter
from shared.events import CloudEvent
from shared.ids import new_id
from shared.http.problems import Problem
from shared.testing.timing import StoppedClock
from tests.conftest import NOW, Balances
from tests.support import ALICE, BOB, NOON, OPERATOR_CALLER, Ledger

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
AROUND = NOON - DAY, NOON + DAY


def ledger_state(seq: int) -> LedgerState:
    return LedgerState(NOON, {"account": LedgerAccount("account", "alice", "USD", seq)})


@pytest.mark.parametrize(
    ("extent", "ledger", "through"),
    [
        (GaplessRange(), ledger_state(0), NOON),
        (GaplessRange(3, NOON - DAY), ledger_state(3), NOON),
        (GaplessRange(4, NOON - MINUTE), ledger_state(3), NOON),
        (GaplessRange(3, NOON - DAY), ledger_state(4), NOON - DAY - CLOCK_MARGIN),  # the tail is missing
        (GaplessRange(), ledger_state(1), None),
        # Account-service does not answer, or does not know the account.
        (GaplessRange(3, NOON - DAY), None, NOON - DAY - CLOCK_MARGIN),
        (GaplessRange(3, NOON - DAY), LedgerState(NOON, {}), NOON - DAY - CLOCK_MARGIN),
        (GaplessRange(), None, None),
        (GaplessRange(), LedgerState(NOON, {}), None),
    ],
)
def test_complete_through_of_an_account(extent: GaplessRange, ledger: LedgerState | None, through: datetime | None):
    found = watermark(extent, "account", ledger)
    assert found.complete_through == through
    assert found.covers(NOON) is (through == NOON) and not found.covers(NOON + MINUTE)


def test_complete_through_of_several_accounts_is_the_earliest():
    whole = watermark(GaplessRange(3, NOON), "account", ledger_state(3))
    late = watermark(GaplessRange(3, NOON - DAY), "account", ledger_state(4))
    unknown = watermark(GaplessRange(), "account", None)
    assert complete_through([whole, late]) == late.complete_through
    assert complete_through([whole, unknown]) is None and complete_through([]) is None


@pytest.fixture
def alices(ledger: Ledger, balances: Balances) -> str:
    """An account with three entries a minute apart, that account-service knows."""
    account = ledger.open()
    for amount in (100, 200, 300):
        ledger.deposit(account, amount)
        ledger.later(60)
    balances.ledger = {account: LedgerAccount(account, "alice", "USD", 3)}
    return account


def of(ledger: Ledger, account: str, *seqs: int) -> list[CloudEvent]:
    """Return the events of some entries of an account."""
    return [event for event in ledger.events if event.subject == account and event.data["seq"] in seqs]


# Which entries have arrived, and whether the statement of two days around them is complete then.
ARRIVALS = [
    ((), False),
    ((1,), False),  # nothing tells the history that a second one exists
    ((1, 2), False),
    ((1, 3), False),
    ((2, 3), False),
    ((3,), False),
    ((1, 2, 3), True),
]


@pytest.mark.parametrize(("seqs", "complete"), ARRIVALS)
async def test_a_statement_is_complete_once_all_entries_of_the_ledger_have_arrived(
    ingestion: EventIngestion,
    service: TransactionService,
    ledger: Ledger,
    balances: Balances,
    alices: str,
    seqs: Sequence[int],
    complete: bool,
):
    await ingestion.apply([ledger.events[0], *of(ledger, alices, *seqs)], [])
    assert (await service.statement(ALICE, alices, *AROUND)).complete is complete
    for wanted in (TransactionFilter("alice"), TransactionFilter("alice", alices)):
        assert (await service.transactions(ALICE, wanted, None, 50)).complete is complete
    balances.ledger = None  # unavailable: only the time well before the last entry is known to be complete
    found = await service.statement(ALICE, alices, *AROUND)
    assert not found.complete and found.watermark.account_seq is None
    assert (await service.statement(ALICE, alices, AROUND[0], NOON - 2 * CLOCK_MARGIN)).complete is (1 in seqs)


async def test_a_period_well_before_the_last_entry_is_complete_without_the_ledger(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger, balances: Balances, alices: str
):
    ledger.now = NOON + DAY
    ledger.deposit(alices, 400)
    balances.ledger = {alices: LedgerAccount(alices, "alice", "USD", 9)}
    await ingestion.apply([ledger.events[0], *of(ledger, alices, 1, 2, 3, 4)], [])
    month = NOON.replace(day=1, hour=0)

    async def complete(end: datetime) -> bool:
        return (await service.statement(ALICE, alices, month, end)).complete

    assert await complete(NOON + DAY - CLOCK_MARGIN)
    assert not await complete(NOON + DAY - CLOCK_MARGIN + MINUTE) and not await complete(NOON + DAY)
    for ledger_state_ in (None, balances.ledger):
        balances.ledger = ledger_state_
        found = await service.transactions(ALICE, TransactionFilter("alice", alices, end=NOON + MINUTE), None, 50)
        assert found.complete and found.complete_through == NOON + DAY - CLOCK_MARGIN
    # A gap before that makes what follows it worthless.
    await ingestion.clear_history()
    await ingestion.apply([ledger.events[0], *of(ledger, alices, 1, 2, 4)], [])
    assert not await complete(NOON + DAY - CLOCK_MARGIN)


async def test_a_period_that_ends_in_the_future_is_not_complete(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger, balances: Balances, alices: str
):
    await ingestion.apply(ledger.events, [])
    assert (await service.statement(ALICE, alices, NOON - DAY, None)).complete
    found = await service.statement(ALICE, alices, NOON - DAY, NOW + timedelta(microseconds=1))
    assert not found.complete and found.watermark.seq == found.watermark.account_seq == 3
    assert not (
        await service.transactions(ALICE, TransactionFilter("alice", end=NOW + timedelta(microseconds=1)), None, 50)
    ).complete
    del balances


async def test_an_account_known_only_to_the_ledger_is_incomplete(
    service: TransactionService, balances: Balances, alices: str
):
    found = await service.statement(ALICE, alices, *AROUND)
    assert (found.currency, found.complete, found.lines, found.watermark.account_seq) == ("USD", False, [], 3)
    page = await service.transactions(ALICE, TransactionFilter("alice", alices), None, 50)
    assert (page.items, page.complete, page.complete_through) == ([], False, None)
    assert not (await service.transactions(ALICE, TransactionFilter("alice"), None, 50)).complete
    with pytest.raises(Problem, match="not-found"):
        await service.statement(BOB, alices, *AROUND)
    with pytest.raises(Problem, match="not-found"):
        await service.transactions(BOB, TransactionFilter("bob", alices), None, 50)

    new = balances.ledger = {alices: LedgerAccount(alices, "alice", "USD", 0)}
    assert (await service.statement(ALICE, alices, *AROUND)).complete  # nothing was posted, and that is known
    balances.ledger = None
    with pytest.raises(Problem, match="not-found"):
        await service.statement(ALICE, alices, *AROUND)
    balances.ledger = new
    with pytest.raises(Problem, match="not-found"):
        await service.statement(ALICE, new_id(), *AROUND)


async def test_the_list_of_all_accounts_is_never_complete(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger, balances: Balances, alices: str
):
    await ingestion.apply(ledger.events, [])
    page = await service.transactions(OPERATOR_CALLER, TransactionFilter(), None, 50)
    assert len(page.items) == 3 and (page.complete, page.complete_through) == (False, None)
    assert (await service.transactions(OPERATOR_CALLER, TransactionFilter(None, alices), None, 50)).complete
    page_of_bob = await service.transactions(BOB, TransactionFilter("bob"), None, 50)
    assert page_of_bob.items == [] and page_of_bob.complete
    del balances


# Checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stride(monkeypatch: pytest.MonkeyPatch) -> int:
    """A checkpoint every two entries."""
    monkeypatch.setattr(reconciliation, "CHECKPOINT_INTERVAL", 2)
    return 2


async def checkpoint_seqs(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list((await connection.scalars(select(checkpoints.c.seq).order_by(checkpoints.c.seq))).all())


async def gapless_range_of(engine: AsyncEngine, account: str) -> GaplessRange:
    async with engine.connect() as connection:
        return (await gapless_ranges(connection, [account]))[account]


@pytest.mark.usefixtures("stride")
async def test_checkpoints_avoid_counting_again(
    ingestion: EventIngestion,
    reconciler: Reconciler,
    engine: AsyncEngine,
    ledger: Ledger,
    balances: Balances,
    alices: str,
):
    balances.found = [[Balance(alices, "USD", 600, 3, NOON)]]
    await ingestion.apply([ledger.events[0], *of(ledger, alices, 1, 3)], [])
    await reconciler.reconcile()
    assert await checkpoint_seqs(engine) == []  # not with a gap
    assert await gapless_range_of(engine, alices) == GaplessRange(1, NOON)
    await ingestion.apply(of(ledger, alices, 2), [])
    await reconciler.reconcile()
    assert await checkpoint_seqs(engine) == [3]
    assert await gapless_range_of(engine, alices) == GaplessRange(3, NOON + 2 * MINUTE)

    for _ in range(4):
        ledger.withdraw(alices, 1)
    await ingestion.apply(of(ledger, alices, 4, 6), [])
    assert await gapless_range_of(engine, alices) == GaplessRange(4, NOON + 3 * MINUTE)
    await ingestion.apply(of(ledger, alices, 7), [])
    balances.found = [[Balance(alices, "USD", 596, 7, NOON)]]
    assert [item["kind"] for item in (await reconciler.reconcile())["items"]] == ["gap"]
    await ingestion.apply(of(ledger, alices, 5), [])
    assert ((await reconciler.reconcile())["mismatches"], await checkpoint_seqs(engine)) == (0, [3, 7])
    balances.found = [[Balance(alices, "USD", 597, 7, NOON)]]
    assert [item["kind"] for item in (await reconciler.reconcile())["items"]] == ["balance"]


@pytest.mark.usefixtures("stride")
async def test_a_rebuild_clears_checkpoints(
    ingestion: EventIngestion,
    reconciler: Reconciler,
    engine: AsyncEngine,
    ledger: Ledger,
    balances: Balances,
    alices: str,
):
    balances.found = [[Balance(alices, "USD", 600, 3, NOON)]]
    await ingestion.apply(ledger.events, [])
    await reconciler.reconcile()
    await ingestion.clear_history()
    assert await checkpoint_seqs(engine) == []
    await ingestion.apply([ledger.events[0], *of(ledger, alices, 1)], [])
    assert (await gapless_range_of(engine, alices)).seq == 1


@pytest.mark.usefixtures("stride")
async def test_a_checkpoint_without_its_entry_is_ignored(
    ingestion: EventIngestion, owner: AsyncEngine, ledger: Ledger, alices: str
):
    # As an older version leaves it behind when it rebuilds.
    async with owner.begin() as connection:
        await connection.execute(checkpoints.insert().values(account_id=alices, seq=3, balance=600))
    await ingestion.apply([ledger.events[0], *of(ledger, alices, 1)], [])
    assert (await gapless_range_of(owner, alices)).seq == 1
    await ingestion.apply(ledger.events, [])
    assert (await gapless_range_of(owner, alices)).seq == 3


@pytest.mark.usefixtures("stride")
async def test_a_canary_writes_no_checkpoint(
    ingestion: EventIngestion,
    engine: AsyncEngine,
    settings: TransactionSettings,
    ledger: Ledger,
    balances: Balances,
    alices: str,
):
    canary = Reconciler(engine, settings.model_copy(update={"app_track": "canary"}), balances)
    balances.found = [[Balance(alices, "USD", 600, 3, NOON)]]
    await ingestion.apply(ledger.events, [])
    assert (await canary.reconcile())["mismatches"] == 0
    assert await checkpoint_seqs(engine) == []


# Account-service ------------------------------------------------------------------------------------------------------


def reader(answers: list[httpx.Response | Exception], asked: list[httpx.Request]) -> LedgerClient:
    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    made = LedgerClient("http://account-service", "secret")
    made._client = httpx.AsyncClient(  # pylint: disable=protected-access
        base_url="http://account-service", transport=httpx.MockTransport(handle)
    )
    return made


async def test_each_lookup_is_one_request():
    item = {"id": "a", "owner": "alice", "currency": "USD", "seq": 3}
    whole, more = ({"items": [item], "more": more} for more in (False, True))
    asked: list[httpx.Request] = []
    client = reader([httpx.Response(200, json=body) for body in (whole, whole, more)], asked)
    for found in (await client.state_of_account("a"), await client.state_of_owner("alice & bob")):
        assert found is not None and found.accounts == {"a": LedgerAccount("a", "alice", "USD", 3)}
        assert found.as_of == NOW
    assert await client.state_of_owner("alice") is None  # there are more than it tells
    assert [str(request.url) for request in asked[:2]] == [
        "http://account-service/internal/seqs?account_id=a",
        "http://account-service/internal/seqs?owner=alice+%26+bob",
    ]


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(404), httpx.Response(500), httpx.Response(200, text="<html>"), httpx.ConnectError("refused")],
)
async def test_a_failed_lookup_pauses_further_lookups(
    answer: httpx.Response | Exception, monkeypatch: pytest.MonkeyPatch
):
    asked, clock = list[httpx.Request](), StoppedClock()
    monkeypatch.setattr(ledger_client_module, "time", clock)
    client = reader([answer, httpx.Response(200, json={"items": [], "more": False})], asked)
    assert await client.state_of_account("a") is None and await client.state_of_account("a") is None
    assert len(asked) == 1
    clock.now += 1
    assert await client.state_of_account("a") is not None


async def test_a_lookup_times_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ledger_client_module, "_SEQ_TIMEOUT_SECONDS", 0.01)

    async def hang(_request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    client = LedgerClient("http://account-service", "secret")
    client._client = httpx.AsyncClient(  # pylint: disable=protected-access
        base_url="http://account-service", transport=httpx.MockTransport(hang)
    )
    assert await client.state_of_account("a") is None
