"""The overdraft limit and the daily debit limit."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.requests import TransferBatch
from app.domain import commands
from app.domain.model import Account
from app.domain.unit_of_work import UnitOfWork
from app.ledger import decide
from app.service import AccountService
from shared.testing.fixtures import Lab
from tests.support import ALICE, OPERATOR_CALLER, assert_invariants, key_header, ledger_request, open_account, withdraw
from tests.test_api import assert_problem, create_account

MORNING = datetime(2026, 1, 1, 8, tzinfo=UTC)
EVENING = MORNING + timedelta(hours=12)
TOMORROW = MORNING + timedelta(days=1)


@pytest.fixture
def unit() -> UnitOfWork:
    """Alice has 1000 USD and may debit 100 of them per day since the morning."""
    alice = Account("alice", "1", "alice", None, "customer", "USD", "active", 1000, 0, 0, MORNING)
    others = [
        Account("bob", "2", "bob", None, "customer", "USD", "active", 1000, 0, 0, MORNING),
        Account("cash", "3", "", None, "cash", "USD", "active", -2000, 0, 0, MORNING),
    ]
    unit = UnitOfWork({account.id: account for account in (alice, *others)}, {"USD": "cash"})
    assert code(unit, commands.SetLimits("alice", 0, 100), MORNING) == "done"
    return unit


def code(unit: UnitOfWork, command: commands.Command, now: datetime) -> str:
    result = decide(unit, command, OPERATOR_CALLER, now)
    return result.code if isinstance(result, commands.Refusal) else "done"


def pay(amount: int, id_: str = "t") -> commands.Transfer:
    return commands.Transfer(id_, "alice", "bob", amount, "USD", None)


def hold(amount: int, id_: str = "h") -> commands.PlaceHold:
    return commands.PlaceHold(id_, "alice", amount, "USD", MORNING + timedelta(days=7))


def test_debits_of_a_day_count(unit: UnitOfWork):
    assert code(unit, pay(60), MORNING) == "done"
    assert code(unit, commands.Withdraw("w", "alice", 40, "USD", None), MORNING) == "done"
    refusal = decide(unit, pay(1), ALICE, EVENING)
    assert isinstance(refusal, commands.Refusal) and refusal.code == "daily-limit-exceeded"
    assert refusal.detail == (
        "Daily debit limit exceeded: limit 1.00 USD, debited today 1.00 USD, requested 0.01 USD; reduce the amount or "
        "wait until 2026-01-02T00:00:00.000000Z."
    )
    assert code(unit, pay(100), TOMORROW) == "done"
    assert code(unit, pay(1), TOMORROW) == "daily-limit-exceeded"


def test_a_hold_counts_when_it_is_placed_and_its_capture_does_not(unit: UnitOfWork):
    assert code(unit, hold(101), EVENING) == "daily-limit-exceeded"
    assert code(unit, hold(100), EVENING) == "done"
    assert code(unit, commands.CaptureHold("c", "h", 70), EVENING) == "done"
    # The rest was released on the same day.
    assert code(unit, pay(31), EVENING) == "daily-limit-exceeded"
    assert code(unit, pay(30), EVENING) == "done"


def test_a_hold_restores_nothing_on_another_day(unit: UnitOfWork):
    for id_ in ("h", "i"):
        assert code(unit, hold(50, id_), EVENING) == "done"
    assert code(unit, commands.ReleaseHold("h", "voided"), EVENING) == "done"
    assert code(unit, pay(50), EVENING) == "done"
    assert code(unit, pay(90), TOMORROW) == "done"
    assert code(unit, commands.ReleaseHold("i", "voided"), TOMORROW) == "done"
    assert code(unit, pay(11), TOMORROW) == "daily-limit-exceeded"


def test_a_hold_from_before_the_limit_restores_nothing(unit: UnitOfWork):
    assert code(unit, commands.SetLimits("alice", 0, None), MORNING) == "done"
    assert code(unit, hold(500), MORNING) == "done"
    assert code(unit, commands.SetLimits("alice", 0, 100), EVENING) == "done"
    assert code(unit, pay(100), EVENING) == "done"
    assert code(unit, commands.ReleaseHold("h", "voided"), EVENING) == "done"
    assert code(unit, pay(1), EVENING) == "daily-limit-exceeded"


def test_corrections_neither_count_nor_restore(unit: UnitOfWork):
    assert code(unit, pay(100), MORNING) == "done"
    assert code(unit, commands.Reverse("r", "t", None), MORNING) == "done"
    assert code(unit, pay(1), MORNING) == "daily-limit-exceeded"
    assert code(unit, commands.Deposit("d", "alice", 500, "USD", None), MORNING) == "done"
    assert code(unit, commands.Reverse("s", "d", None), MORNING) == "done"


def test_a_changed_limit_keeps_what_has_counted(unit: UnitOfWork):
    assert code(unit, pay(80), MORNING) == "done"
    assert code(unit, commands.SetLimits("alice", 0, 90), EVENING) == "done"
    assert code(unit, pay(11), EVENING) == "daily-limit-exceeded"
    assert code(unit, pay(10), EVENING) == "done"


def test_an_overdraft_in_use_cannot_be_removed(unit: UnitOfWork):
    assert code(unit, commands.SetLimits("alice", 200, None), MORNING) == "done"
    assert code(unit, pay(1100), MORNING) == "done"
    assert code(unit, hold(50), MORNING) == "done"
    refusal = decide(unit, commands.SetLimits("alice", 149, None), OPERATOR_CALLER, MORNING)
    assert isinstance(refusal, commands.Refusal) and refusal.code == "overdraft-in-use"
    assert refusal.detail == "The account uses 1.50 USD of its overdraft; 1.49 USD is less than that."
    assert code(unit, commands.SetLimits("alice", 150, None), MORNING) == "done"
    assert code(unit, hold(1, "i"), MORNING) == "insufficient-funds"
    assert code(unit, commands.SetStatus("alice", "closed"), MORNING) == "balance-not-zero"


async def test_operators_set_limits(client: httpx.AsyncClient, lab: Lab):
    account = await create_account(client, 100)
    limits = {"overdraft_limit": 50, "daily_debit_limit": 1000}
    for _ in range(2):
        changed = await client.post(f"/api/v1/accounts/{account}/limits", json=limits, headers=lab.operator())
        assert changed.status_code == 200, changed.text
    assert changed.json() == (await client.get(f"/api/v1/accounts/{account}")).json()
    assert changed.json().items() >= {**limits, "balance": 100, "available": 150}.items()
    body = {"amount": 150, "currency": "USD"}
    paid = await client.post(f"/api/v1/accounts/{account}/withdrawals", json=body, headers=key_header())
    assert paid.json()["entries"][0]["balance_after"] == -50
    audited = (await client.get(f"/api/v1/audit?account_id={account}", headers=lab.operator())).json()["items"]
    assert [item["action"] for item in audited].count("set-limits") == 1, "unchanged limits are no change"
    for wrong in ({"overdraft_limit": -1}, {"daily_debit_limit": -1}, {"overdraft_limit": 10**15 + 1}):
        response = await client.post(
            f"/api/v1/accounts/{account}/limits", json={**limits, **wrong}, headers=lab.operator()
        )
        assert_problem(response, 422, "validation-failed")


async def test_limits_hold_across_requests(service: AccountService, engine: AsyncEngine):
    account = await open_account(service, money=100)
    limits = commands.SetLimits(account, 100, 150)
    assert (await service.execute(ledger_request(limits, OPERATOR_CALLER, key=None))).status == 201
    for amount, status in ((120, 201), (31, 409), (30, 201)):
        assert (await service.execute(ledger_request(withdraw(account, amount)))).status == status
    await assert_invariants(engine)


async def test_an_undone_batch_does_not_count(service: AccountService):
    account, other = await open_account(service, money=100), await open_account(service)
    limits = commands.SetLimits(account, 0, 50)
    assert (await service.execute(ledger_request(limits, OPERATOR_CALLER, key=None))).status == 201
    items = [commands.Transfer(str(n), account, other, amount, "USD", None) for n, amount in enumerate((40, 11))]
    batch = TransferBatch(tuple(ledger_request(item) for item in items), atomic=True)
    assert b"daily-limit-exceeded" in (await service.execute(ledger_request(batch))).body
    assert (await service.execute(ledger_request(withdraw(account, 50)))).status == 201


@pytest.mark.parametrize("change", ["balance = balance - 151", "held = 151", "overdraft_limit = 49, balance = -50"])
async def test_the_database_enforces_the_overdraft_limit(owner: AsyncEngine, service: AccountService, change: str):
    account = await open_account(service, money=100)
    limits = commands.SetLimits(account, 50, None)
    assert (await service.execute(ledger_request(limits, OPERATOR_CALLER, key=None))).status == 201
    async with owner.connect() as connection:
        with pytest.raises(DBAPIError):
            await connection.execute(text(f"UPDATE accounts SET {change} WHERE kind = 'customer'"))
