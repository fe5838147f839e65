"""Reconciliation, on plain data and against both databases."""

import time
from datetime import timedelta

import httpx
import pytest

from app.application.ingestion import EventIngestion
from app.application.reconciler import Reconciler
from app.domain.reconciliation import Balance, History, HistoryAtBalance, compare
from app.ledger_client import LedgerClient
from app.prometheus import MISMATCHES
from app.service import TransactionService
from shared.ids import new_id
from shared.http.problems import Problem
from shared.prometheus.registry import REGISTRY
from tests.conftest import NOW, Balances
from tests.support import ALICE, NOON, OPERATOR_CALLER, Ledger

GRACE = timedelta(seconds=60)
OLD, RECENT = NOON - timedelta(seconds=61), NOON - timedelta(seconds=59)


def balance(amount: int = 30, seq: int = 3, updated_at=OLD) -> Balance:
    return Balance("account", "USD", amount, seq, updated_at)


@pytest.mark.parametrize(
    ("theirs", "ours", "surplus", "expected"),
    [
        (balance(), History(3, 3, 30, 30), None, None),
        (balance(0, 0), History(), None, None),
        (balance(31), History(3, 3, 30, 30), None, "balance"),
        (balance(5, 0), History(), None, "balance"),
        (balance(), History(3, 3, 29, 30), None, "sum"),
        (balance(seq=4), History(3, 3, 30, 30), None, "missing-entries"),
        (balance(seq=4, updated_at=RECENT), History(3, 3, 30, 30), None, "pending"),
        (balance(), History(2, 3, 30, 30, gap_since=OLD), None, "gap"),
        (balance(), History(2, 3, 30, 30, gap_since=RECENT), None, "pending"),
        (balance(), History(4, 4, 40, 40), HistoryAtBalance(30, RECENT), None),
        (balance(), History(4, 4, 40, 40), HistoryAtBalance(29, RECENT), "balance"),
        (balance(), History(4, 4, 40, 40), HistoryAtBalance(30, OLD), "local-ahead"),
        (balance(0, 0), History(1, 1, 40, 40), HistoryAtBalance(None, RECENT), None),
        (balance(9, 0), History(1, 1, 40, 40), HistoryAtBalance(None, RECENT), "balance"),
    ],
)
def test_compare(theirs: Balance, ours: History, surplus: HistoryAtBalance | None, expected: str | None):
    assert compare(theirs, ours, surplus, NOON, GRACE) == expected


def balances_of(ledger: Ledger, updated_at=NOON) -> list[Balance]:
    return [Balance(id_, "USD", chain[-1], len(chain) - 1, updated_at) for id_, chain in ledger.balances.items()]


async def test_a_complete_history_reconciles(
    ingestion: EventIngestion, reconciler: Reconciler, balances: Balances, ledger: Ledger
):
    alices, bobs = ledger.open(), ledger.open("bob")
    ledger.deposit(alices, 100)
    ledger.move(alices, bobs, 40)
    await ingestion.apply(ledger.events, [])
    balances.found = [balances_of(ledger)[:2], [*balances_of(ledger)[2:], Balance(new_id(), "USD", 0, 0, NOON)]]

    result = await reconciler.reconcile()

    assert (result["checked"], result["mismatches"], result["pending"], result["items"]) == (4, 0, 0, [])
    assert MISMATCHES._value.get() == 0  # pylint: disable=protected-access


async def test_missing_entries_are_mismatches(
    ingestion: EventIngestion, reconciler: Reconciler, balances: Balances, ledger: Ledger
):
    alices = ledger.open()
    for amount in (100, 200, 300):
        ledger.deposit(alices, amount)
    opened, _, first, _, second, _, third = ledger.events
    await ingestion.apply([opened, first, third], [])
    balances.found = [[Balance(alices, "USD", 600, 3, NOON)]]
    begun = time.time()
    found = await reconciler.reconcile()
    assert found["items"] == [
        {
            **{"account_id": alices, "kind": "gap", "seq": 3, "account_service_seq": 3},
            **{"balance": 600, "account_service_balance": 600},
        }
    ]
    assert MISMATCHES._value.get() == 1  # pylint: disable=protected-access
    checked = REGISTRY.get_sample_value("bank_check_completed_timestamp_seconds", {"check": "reconciliation"})
    assert checked is not None and begun <= checked <= time.time()

    await ingestion.apply([second], [])
    assert (await reconciler.reconcile())["mismatches"] == 0
    balances.found = [[Balance(alices, "USD", 700, 4, NOON)]]
    assert (await reconciler.reconcile())["items"][0]["kind"] == "missing-entries"
    balances.found = [[Balance(alices, "USD", 700, 4, NOW)]]
    assert ((found := await reconciler.reconcile())["mismatches"], found["pending"]) == (0, 1)


async def test_entries_newer_than_the_balance_are_no_mismatch(
    ingestion: EventIngestion, reconciler: Reconciler, balances: Balances, ledger: Ledger
):
    ledger.now = NOW
    alices = ledger.open()
    ledger.deposit(alices, 100)
    answered = balances_of(ledger)
    ledger.withdraw(alices, 30)
    ledger.withdraw(alices, 30)
    await ingestion.apply(ledger.events, [])
    balances.found = [answered]
    assert (await reconciler.reconcile())["mismatches"] == 0
    balances.found = [[Balance(alices, "USD", 99, 1, NOW)]]
    assert (await reconciler.reconcile())["items"][0]["kind"] == "balance"


async def test_at_most_a_hundred_mismatches_are_listed(reconciler: Reconciler, balances: Balances):
    balances.found = [[Balance(new_id(), "USD", 1, 1, NOON) for _ in range(60)] for _ in range(2)]
    result = await reconciler.reconcile()
    assert (result["checked"], result["mismatches"], len(result["items"])) == (120, 120, 100)


async def test_only_operators_may_reconcile(service: TransactionService, balances: Balances):
    del balances
    with pytest.raises(Problem, match="forbidden"):
        await service.reconciliation(ALICE)
    assert (await service.reconciliation(OPERATOR_CALLER))["checked"] == 0


def reader(handle) -> LedgerClient:
    made = LedgerClient("http://account-service", "secret")
    made._client = httpx.AsyncClient(  # pylint: disable=protected-access
        base_url="http://account-service", transport=httpx.MockTransport(handle)
    )
    return made


async def test_all_pages_of_balances_are_read():
    item = {"id": "a", "currency": "USD", "balance": 1, "seq": 1, "updated_at": "2026-11-20T12:00:00Z"}

    def handle(request: httpx.Request) -> httpx.Response:
        last = request.url.params.get("after") == "next"
        page = {"items": [{**item, "id": "b" if last else "a"}], "next_cursor": None if last else "next"}
        return httpx.Response(200, json=page)

    found = [balance async for _, page in reader(handle).balances() for balance in page]
    assert [balance.id for balance in found] == ["a", "b"]
    assert found[0].updated_at == NOON


@pytest.mark.parametrize("answer", [httpx.Response(500), httpx.Response(401), httpx.Response(200, text="<html>")])
async def test_an_invalid_response_is_unavailable(
    reconciler: Reconciler, service: TransactionService, answer: httpx.Response
):
    reconciler._ledger = reader(lambda request: answer)  # pylint: disable=protected-access
    with pytest.raises(Problem) as refused:
        await reconciler.reconcile()
    assert (refused.value.code, refused.value.headers["Retry-After"]) == ("unavailable", "1")
