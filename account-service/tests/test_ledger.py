"""Decisions of the ledger, on plain data."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from app.domain import commands
from app.domain.model import MAX_BALANCE, MAX_BLOCKING_HOLDS, MAX_CASH_BALANCE, MAX_LIMIT
from app.domain.model import Account, Entry, Hold, Transaction, format_amount
from app.domain.unit_of_work import UnitOfWork
from app.ledger import decide
from shared.http.auth import CASH_DESK, OPERATOR, SYNTHETIC, Caller
from tests.support import ALICE, BOB, OPERATOR_CALLER

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def account(id_: str, owner: str, balance: int = 0, **changes: object) -> Account:
    kind = "cash" if owner == "bank" else "customer"
    values = {"currency": "USD", "status": "active", "held": 0, "seq": 0, **changes}
    return Account(id_, id_, owner, None, kind, balance=balance, created_at=NOW, **values)  # type: ignore[arg-type]


@pytest.fixture
def unit() -> UnitOfWork:
    """Alice has 100 USD and 10 EUR, Bob has nothing."""
    accounts = [
        account("cash", "bank", -100),
        account("alice", "alice", 100, seq=4),
        account("bob", "bob"),
        account("euro", "alice", 10, currency="EUR"),
    ]
    return UnitOfWork({account.id: account for account in accounts}, {"USD": "cash", "EUR": "euro-cash"})


def code(result: object) -> str:
    return result.code if isinstance(result, commands.Refusal) else "done"


def pay(amount: int, source: str = "alice", target: str = "bob", currency: str = "USD") -> commands.Transfer:
    return commands.Transfer("t", source, target, amount, currency, None)


def test_commands_declare_what_their_decisions_read() -> None:
    examples: list[commands.Command] = [
        commands.OpenAccount("new", "1", "JPY", None),
        commands.Deposit("d", "a", 1, "USD", None),
        commands.Withdraw("w", "b", 1, "EUR", None),
        commands.Transfer("t", "c", "d", 1, "USD", None),
        commands.Reverse("r", "original", None),
        commands.PlaceHold("h", "e", 1, "CHF", NOW),
        commands.CaptureHold("x", "captured", None),
        commands.ExtendHold("extended", NOW),
        commands.ReleaseHold("released", "voided"),
        commands.SetStatus("f", "frozen"),
        commands.SetStatus("g", "closed"),
        commands.SetLimits("h", 1, None),
        commands.PostGroup("p", (commands.Transfer("l", "i", "j", 1, "USD", None),)),
        commands.ReverseGroup("q", ("r",), "group", None),
    ]
    assert {type(command) for command in examples} == set(get_args(commands.Command))
    assert commands.References.union(command.references for command in examples) == commands.References(
        accounts=set("abcdefghij"),
        transactions={"original"},
        groups={"group"},
        holds={"captured", "extended", "released"},
        accounts_to_close={"g"},
        captured_holds={"captured"},
        cash={"USD", "EUR"},
        unlocked_cash={"CHF"},
    )


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        (1050, "USD", "10.50 USD"),
        (5, "USD", "0.05 USD"),
        (0, "USD", "0.00 USD"),
        (1050, "JPY", "1050 JPY"),
        (1050, "KWD", "1.050 KWD"),
        (10**15, "EUR", "10000000000000.00 EUR"),
    ],
)
def test_amounts_in_problems_have_the_decimals_of_their_currency(amount: int, currency: str, expected: str) -> None:
    assert format_amount(amount, currency) == expected


def test_a_transfer_posts_two_entries_that_sum_to_zero(unit: UnitOfWork):
    result = decide(unit, pay(30), ALICE, NOW)

    assert isinstance(result, commands.TransactionResult)
    assert result.entries == (Entry("alice", 5, "t", -30, 70), Entry("bob", 1, "t", 30, 30))
    assert [event.type for event in unit.events] == ["bank.entry.posted"] * 2
    assert (unit.accounts["alice"].balance, unit.accounts["bob"].balance) == (70, 30)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (pay(100), "done"),
        (pay(101), "insufficient-funds"),
        (pay(1, target="alice"), "same-account"),
        (pay(1, target="euro"), "currency-mismatch"),
        (pay(1, currency="EUR"), "currency-mismatch"),
        (pay(1, target="nobody"), "not-found"),
        (pay(1, source="bob", target="alice"), "not-found"),
        (pay(1, source="cash"), "not-found"),
        (pay(1, target="cash"), "not-found"),
        (commands.Withdraw("w", "bob", 1, "USD", None), "not-found"),
        (commands.Withdraw("w", "alice", 1, "EUR", None), "currency-mismatch"),
        (commands.Deposit("d", "euro", 1, "USD", None), "currency-mismatch"),
        (commands.Reverse("r", "nothing", None), "not-found"),
        (commands.CaptureHold("c", "nothing", None), "not-found"),
        (commands.SetStatus("alice", "closed"), "balance-not-zero"),
    ],
)
def test_refusals_change_nothing(unit: UnitOfWork, command: commands.Command, expected: str):
    before = [(a.balance, a.held, a.seq, a.status) for a in unit.accounts.values()]
    assert code(decide(unit, command, ALICE, NOW)) == expected
    if expected != "done":
        assert [(a.balance, a.held, a.seq, a.status) for a in unit.accounts.values()] == before
        assert not unit.entries and not unit.changed_accounts


SYNTHETIC_CALLER = Caller("alice", frozenset({SYNTHETIC, CASH_DESK, OPERATOR}))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (commands.Deposit("d", "alice", 1, "USD", None), "done"),
        (commands.Deposit("d", "bob", 1, "USD", None), "forbidden"),
        (commands.Deposit("d", "nobody", 1, "USD", None), "forbidden"),
        (pay(1, target="second"), "done"),
        (pay(1), "forbidden"),
        (pay(1, source="bob", target="alice"), "forbidden"),
        (pay(1, target="cash"), "forbidden"),
        (commands.Withdraw("w", "alice", 1, "USD", None), "forbidden"),
        (commands.PlaceHold("h", "alice", 1, "USD", NOW), "forbidden"),
        (commands.CaptureHold("c", "hold", None), "forbidden"),
        (commands.Reverse("r", "paid", None), "forbidden"),
        (commands.SetStatus("bob", "frozen"), "forbidden"),
        (commands.OpenAccount("new", "1", "USD", None), "done"),
    ],
)
def test_synthetic_money_stays_on_the_callers_own_accounts(unit: UnitOfWork, command: commands.Command, expected: str):
    """Other scopes of the token do not lift the restriction."""
    unit.accounts["second"] = account("second", "alice")
    assert code(decide(unit, command, SYNTHETIC_CALLER, NOW)) == expected


def test_frozen_accounts_only_receive_and_closed_ones_refuse_everything(unit: UnitOfWork):
    unit.accounts["alice"].status = "frozen"
    assert code(decide(unit, pay(1), ALICE, NOW)) == "account-frozen"
    assert code(decide(unit, commands.Deposit("d", "alice", 1, "USD", None), ALICE, NOW)) == "done"
    unit.accounts["bob"].status = "closed"
    unit.accounts["alice"].status = "active"
    assert code(decide(unit, pay(1), ALICE, NOW)) == "account-closed"
    assert code(decide(unit, commands.Deposit("d", "bob", 1, "USD", None), OPERATOR_CALLER, NOW)) == "account-closed"
    assert code(decide(unit, commands.SetStatus("bob", "active"), OPERATOR_CALLER, NOW)) == "account-closed"


def test_balances_stay_within_the_limit(unit: UnitOfWork):
    unit.accounts["bob"].balance = MAX_BALANCE - 5
    assert code(decide(unit, pay(6), ALICE, NOW)) == "balance-limit"
    assert code(decide(unit, pay(5), ALICE, NOW)) == "done"
    assert MAX_BALANCE + MAX_LIMIT < 2**53
    unit.accounts["cash"].balance = -MAX_CASH_BALANCE
    assert code(decide(unit, commands.Deposit("d", "alice", 1, "USD", None), ALICE, NOW)) == "balance-limit"


@pytest.mark.parametrize(
    ("type_", "source", "target", "caller", "expected"),
    [
        ("transfer", "alice", "bob", ALICE, "forbidden"),
        ("transfer", "alice", "bob", BOB, "done"),
        ("transfer", "alice", "bob", OPERATOR_CALLER, "done"),
        ("deposit", "cash", "bob", BOB, "done"),
        ("deposit", "cash", "bob", ALICE, "not-found"),
        ("withdrawal", "bob", "cash", BOB, "forbidden"),
        ("withdrawal", "alice", "cash", ALICE, "done"),
        ("reversal", "alice", "bob", BOB, "not-reversible"),
    ],
)
def test_permission_to_reverse(unit: UnitOfWork, type_: str, source: str, target: str, caller, expected: str):
    unit.accounts["bob"].balance = 50
    unit.reversible["o"] = Transaction("o", type_, 10, "USD", source, target, None, None, NOW)
    assert code(decide(unit, commands.Reverse("r", "o", None), caller, NOW)) == expected
    if expected == "done":
        assert code(decide(unit, commands.Reverse("r2", "o", None), caller, NOW)) == "already-reversed"


def test_a_hold_expires_before_it_is_swept(unit: UnitOfWork):
    unit.accounts["alice"].held = 60
    unit.holds["h"] = Hold("h", "alice", 60, 0, "USD", "active", NOW, None, NOW, "owner")
    assert code(decide(unit, commands.CaptureHold("c", "h", None), ALICE, NOW)) == "hold-not-active"
    assert code(decide(unit, commands.ReleaseHold("h", "voided"), ALICE, NOW)) == "hold-not-active"
    early = NOW - timedelta(seconds=1)
    assert code(decide(unit, commands.ReleaseHold("h", "expired"), ALICE, early)) == "hold-not-active"
    assert code(decide(unit, commands.CaptureHold("c", "h", 61), ALICE, early)) == "hold-exceeded"
    released = decide(unit, commands.ReleaseHold("h", "expired"), ALICE, NOW)
    assert isinstance(released, commands.HoldResult) and released.hold.status == "expired"
    assert unit.accounts["alice"].held == 0


def test_a_partial_capture_releases_the_rest(unit: UnitOfWork):
    unit.accounts["alice"].held = 100
    unit.holds["h"] = Hold("h", "alice", 100, 0, "USD", "active", NOW + timedelta(1), None, NOW, "owner")
    result = decide(unit, commands.CaptureHold("c", "h", 40), ALICE, NOW)
    assert isinstance(result, commands.HoldResult) and result.capture is not None
    assert (result.hold.status, result.hold.captured_amount, result.hold.transaction_id) == ("captured", 40, "c")
    assert (unit.accounts["alice"].balance, unit.accounts["alice"].available) == (60, 60)


def test_a_transaction_is_reversed_in_parts_up_to_its_amount(unit: UnitOfWork):
    unit.accounts["bob"].balance = 100
    unit.reversible["o"] = Transaction("o", "transfer", 50, "USD", "alice", "bob", None, None, NOW)
    for number, (amount, expected) in enumerate(
        [(30, "done"), (21, "reversal-exceeded"), (5, "done"), (None, "done"), (1, "already-reversed")]
    ):
        assert code(decide(unit, commands.Reverse(f"r{number}", "o", None, amount), BOB, NOW)) == expected
    assert [transaction.amount for transaction in unit.transactions] == [30, 5, 15]
    assert {transaction.reverses for transaction in unit.transactions} == {"o"}
    assert (unit.accounts["alice"].balance, unit.accounts["bob"].balance) == (150, 50)


def test_a_refused_reversal_leaves_the_transaction_reversible(unit: UnitOfWork):
    unit.reversible["o"] = Transaction("o", "transfer", 50, "USD", "alice", "bob", None, None, NOW)
    assert code(decide(unit, commands.Reverse("r", "o", None, 30), BOB, NOW)) == "insufficient-funds"
    unit.accounts["bob"].balance = 50
    assert code(decide(unit, commands.Reverse("r", "o", None), BOB, NOW)) == "done"
    assert unit.transactions[0].amount == 50


def held(unit: UnitOfWork, amount: int = 60, **changes: object) -> Hold:
    """Place a hold on alice's account."""
    unit.accounts["alice"].held += amount
    hold = replace(Hold("h", "alice", amount, 0, "USD", "active", NOW + timedelta(1), None, NOW, "owner"), **changes)
    unit.holds[hold.id] = hold
    return hold


def test_a_hold_is_captured_in_parts_up_to_its_amount(unit: UnitOfWork):
    held(unit)
    for number, (amount, captured, remaining) in enumerate([(25, 25, 35), (5, 30, 30)]):
        result = decide(unit, commands.CaptureHold(f"c{number}", "h", amount, final=False), ALICE, NOW)
        assert isinstance(result, commands.HoldResult) and result.capture is not None
        assert result.capture.transaction.amount == amount
        assert (result.hold.status, result.hold.amount) == ("active", 60)
        assert (result.hold.captured_amount, result.hold.remaining_amount) == (captured, remaining)
        assert (unit.accounts["alice"].held, unit.accounts["alice"].available) == (remaining, 40)
    assert code(decide(unit, commands.CaptureHold("c3", "h", 31, final=False), ALICE, NOW)) == "hold-exceeded"
    last = decide(unit, commands.CaptureHold("c4", "h", 30, final=False), ALICE, NOW)
    assert isinstance(last, commands.HoldResult)
    assert (last.hold.status, last.hold.captured_amount, last.hold.transaction_id) == ("captured", 60, "c4")
    assert (unit.accounts["alice"].balance, unit.accounts["alice"].held) == (40, 0)
    assert code(decide(unit, commands.CaptureHold("c5", "h", None), ALICE, NOW)) == "hold-not-active"


@pytest.mark.parametrize(
    ("command", "status", "balance", "captured"),
    [
        (commands.CaptureHold("c", "h", None), "captured", 40, 60),
        (commands.CaptureHold("c", "h", 10), "captured", 70, 30),
        (commands.ReleaseHold("h", "voided"), "voided", 80, 20),
    ],
)
def test_the_end_of_a_partly_captured_hold_releases_the_rest(
    unit: UnitOfWork, command: commands.Command, status: str, balance: int, captured: int
):
    held(unit)
    decide(unit, commands.CaptureHold("c1", "h", 20, final=False), ALICE, NOW)
    result = decide(unit, command, ALICE, NOW)
    assert isinstance(result, commands.HoldResult)
    assert (result.hold.status, result.hold.captured_amount, result.hold.remaining_amount) == (status, captured, 0)
    assert (unit.accounts["alice"].balance, unit.accounts["alice"].held) == (balance, 0)


@pytest.mark.parametrize(("caller", "expected"), [(ALICE, "account-frozen"), (OPERATOR_CALLER, "done")])
def test_only_operators_capture_a_hold_on_a_frozen_account(unit: UnitOfWork, caller, expected: str):
    held(unit)
    unit.accounts["alice"].status = "frozen"
    assert code(decide(unit, commands.CaptureHold("c", "h", None), caller, NOW)) == expected
    assert unit.accounts["alice"].balance == (40 if expected == "done" else 100)


@pytest.mark.parametrize(
    ("days", "expected"),
    [(1, "expiry-out-of-range"), (2, "done"), (365, "done"), (366, "expiry-out-of-range"), (0, "expiry-out-of-range")],
)
def test_a_hold_is_extended_within_a_year_after_it_was_placed(unit: UnitOfWork, days: int, expected: str):
    held(unit)
    result = decide(unit, commands.ExtendHold("h", NOW + timedelta(days)), ALICE, NOW)
    assert code(result) == expected
    assert unit.holds["h"].expires_at == NOW + timedelta(days if expected == "done" else 1)
    assert [event.type for event in unit.events] == (["bank.hold.extended"] if expected == "done" else [])


@pytest.mark.parametrize("ended", [{"status": "voided"}, {"expires_at": NOW}])
def test_a_hold_that_has_ended_is_not_extended(unit: UnitOfWork, ended: dict[str, object]):
    held(unit, **ended)
    assert code(decide(unit, commands.ExtendHold("h", NOW + timedelta(5)), ALICE, NOW)) == "hold-not-active"


def test_a_refusal_to_close_names_the_oldest_active_holds(unit: UnitOfWork):
    unit.accounts["alice"].balance = 1000
    ids = [f"h{number:02}" for number in range(MAX_BLOCKING_HOLDS + 2)]
    for id_ in reversed(ids):
        held(unit, 1, id=id_)
    held(unit, 1, id="a-voided", status="voided")
    refusal = decide(unit, commands.SetStatus("alice", "closed"), OPERATOR_CALLER, NOW)
    assert isinstance(refusal, commands.Refusal) and refusal.code == "balance-not-zero"
    assert refusal.holds == tuple(ids[:MAX_BLOCKING_HOLDS])


@pytest.mark.parametrize(
    ("placed_by", "caller", "expected"),
    [
        ("owner", ALICE, "done"),
        ("owner", OPERATOR_CALLER, "done"),
        ("owner", BOB, "not-found"),
        ("operator", ALICE, "forbidden"),
        ("operator", OPERATOR_CALLER, "done"),
        (None, ALICE, "forbidden"),
        (None, OPERATOR_CALLER, "done"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        commands.CaptureHold("c", "h", None),
        commands.CaptureHold("c", "h", 1),
        commands.CaptureHold("c", "h", 1, final=False),
        commands.ExtendHold("h", NOW + timedelta(2)),
        commands.ReleaseHold("h", "voided"),
    ],
)
def test_permission_to_change_a_hold(
    unit: UnitOfWork, command: commands.Command, placed_by: str | None, caller, expected: str
):
    before = held(unit, placed_by=placed_by)
    assert code(decide(unit, command, caller, NOW)) == expected
    assert (unit.holds["h"] != before) == (expected == "done")


@pytest.mark.parametrize(("caller", "placed_by"), [(ALICE, "owner"), (OPERATOR_CALLER, "operator")])
def test_a_hold_records_who_placed_it(unit: UnitOfWork, caller, placed_by: str):
    result = decide(unit, commands.PlaceHold("h", "alice", 60, "USD", NOW + timedelta(1)), caller, NOW)
    assert isinstance(result, commands.HoldResult) and result.hold.placed_by == placed_by
