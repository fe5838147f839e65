"""Decisions of the ledger on plain data."""

from datetime import UTC, datetime, timedelta

import pytest

from app.book import (
    MAX_BALANCE,
    Account,
    Book,
    CaptureHold,
    Command,
    Deposit,
    Entry,
    Hold,
    HoldIs,
    OpenAccount,
    PlaceHold,
    Posted,
    Refused,
    ReleaseHold,
    Reverse,
    SetStatus,
    Transaction,
    Transfer,
    Withdraw,
)
from app.ledger import decide
from shared.http.auth import CASH_DESK, OPERATOR, SYNTHETIC, Caller
from tests.support import ALICE, BOB, OPERATOR_CALLER

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def account(id_: str, owner: str, balance: int = 0, **changes: object) -> Account:
    kind = "cash" if owner == "bank" else "customer"
    values = {"currency": "USD", "status": "active", "held": 0, "seq": 0, **changes}
    return Account(id_, id_, owner, None, kind, balance=balance, created_at=NOW, **values)  # type: ignore[arg-type]


@pytest.fixture
def book() -> Book:
    """Alice has 100, Bob nothing; Eve's euros are somewhere else."""
    accounts = [
        account("cash", "bank", -100),
        account("alice", "alice", 100, seq=4),
        account("bob", "bob"),
        account("euro", "alice", 10, currency="EUR"),
    ]
    return Book({found.id: found for found in accounts}, {"USD": "cash", "EUR": "euro-cash"})


def code(outcome: object) -> str:
    return outcome.code if isinstance(outcome, Refused) else "done"


def pay(amount: int, source: str = "alice", target: str = "bob", currency: str = "USD") -> Transfer:
    return Transfer("t", source, target, amount, currency, None)


def test_a_transfer_is_two_entries_that_sum_to_zero_and_continue_the_chain(book: Book):
    outcome = decide(book, pay(30), ALICE, NOW)

    assert isinstance(outcome, Posted)
    assert outcome.entries == (Entry("alice", 5, "t", -30, 70), Entry("bob", 1, "t", 30, 30))
    assert [fact.type for fact in book.facts] == ["bank.entry.posted"] * 2
    assert (book.accounts["alice"].balance, book.accounts["bob"].balance) == (70, 30)


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
        (Withdraw("w", "bob", 1, "USD", None), "not-found"),
        (Withdraw("w", "alice", 1, "EUR", None), "currency-mismatch"),
        (Deposit("d", "euro", 1, "USD", None), "currency-mismatch"),
        (Reverse("r", "nothing", None), "not-found"),
        (CaptureHold("c", "nothing", None), "not-found"),
        (SetStatus("alice", "closed"), "balance-not-zero"),
    ],
)
def test_refusals(book: Book, command: Command, expected: str):
    before = [(a.balance, a.held, a.seq, a.status) for a in book.accounts.values()]
    assert code(decide(book, command, ALICE, NOW)) == expected
    if expected != "done":
        assert [(a.balance, a.held, a.seq, a.status) for a in book.accounts.values()] == before
        assert not book.entries and not book.changed


SYNTHETIC_CALLER = Caller("alice", frozenset({SYNTHETIC, CASH_DESK, OPERATOR}))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (Deposit("d", "alice", 1, "USD", None), "done"),
        (Deposit("d", "bob", 1, "USD", None), "forbidden"),
        (Deposit("d", "nobody", 1, "USD", None), "forbidden"),
        (pay(1, target="second"), "done"),
        (pay(1), "forbidden"),
        (pay(1, source="bob", target="alice"), "forbidden"),
        (pay(1, target="cash"), "forbidden"),
        (Withdraw("w", "alice", 1, "USD", None), "forbidden"),
        (PlaceHold("h", "alice", 1, "USD", NOW), "forbidden"),
        (CaptureHold("c", "hold", None), "forbidden"),
        (Reverse("r", "paid", None), "forbidden"),
        (SetStatus("bob", "frozen"), "forbidden"),
        (OpenAccount("new", "1", "USD", None), "done"),
    ],
)
def test_synthetic_money_stays_on_the_callers_own_accounts(book: Book, command: Command, expected: str):
    """Whatever other scopes the token has."""
    book.accounts["second"] = account("second", "alice")
    assert code(decide(book, command, SYNTHETIC_CALLER, NOW)) == expected


def test_frozen_accounts_receive_and_closed_ones_do_nothing(book: Book):
    book.accounts["alice"].status = "frozen"
    assert code(decide(book, pay(1), ALICE, NOW)) == "account-frozen"
    assert code(decide(book, Deposit("d", "alice", 1, "USD", None), ALICE, NOW)) == "done"
    book.accounts["bob"].status = "closed"
    book.accounts["alice"].status = "active"
    assert code(decide(book, pay(1), ALICE, NOW)) == "account-closed"
    assert code(decide(book, Deposit("d", "bob", 1, "USD", None), OPERATOR_CALLER, NOW)) == "account-closed"
    assert code(decide(book, SetStatus("bob", "active"), OPERATOR_CALLER, NOW)) == "account-closed"


def test_balances_stay_within_what_the_database_can_sum(book: Book):
    book.accounts["bob"].balance = MAX_BALANCE - 5
    assert code(decide(book, pay(6), ALICE, NOW)) == "balance-limit"
    assert code(decide(book, pay(5), ALICE, NOW)) == "done"
    book.accounts["cash"].balance = -MAX_BALANCE
    assert code(decide(book, Deposit("d", "alice", 1, "USD", None), ALICE, NOW)) == "balance-limit"


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
def test_who_may_reverse_what(book: Book, type_: str, source: str, target: str, caller, expected: str):
    book.accounts["bob"].balance = 50
    book.originals["o"] = Transaction("o", type_, 10, "USD", source, target, None, None, NOW)
    assert code(decide(book, Reverse("r", "o", None), caller, NOW)) == expected
    if expected == "done":
        assert code(decide(book, Reverse("r2", "o", None), caller, NOW)) == "already-reversed"


def test_a_hold_is_over_at_its_time_even_before_the_sweeper_comes(book: Book):
    book.accounts["alice"].held = 60
    book.holds["h"] = Hold("h", "alice", 60, 0, "USD", "active", NOW, None, NOW, "owner")
    assert code(decide(book, CaptureHold("c", "h", None), ALICE, NOW)) == "hold-not-active"
    assert code(decide(book, ReleaseHold("h", "voided"), ALICE, NOW)) == "hold-not-active"
    early = NOW - timedelta(seconds=1)
    assert code(decide(book, ReleaseHold("h", "expired"), ALICE, early)) == "hold-not-active"
    assert code(decide(book, CaptureHold("c", "h", 61), ALICE, early)) == "hold-exceeded"
    released = decide(book, ReleaseHold("h", "expired"), ALICE, NOW)
    assert isinstance(released, HoldIs) and released.hold.status == "expired"
    assert book.accounts["alice"].held == 0


def test_a_part_captured_releases_the_rest(book: Book):
    book.accounts["alice"].held = 100
    book.holds["h"] = Hold("h", "alice", 100, 0, "USD", "active", NOW + timedelta(1), None, NOW, "owner")
    outcome = decide(book, CaptureHold("c", "h", 40), ALICE, NOW)
    assert isinstance(outcome, HoldIs) and outcome.captured is not None
    assert (outcome.hold.status, outcome.hold.captured_amount, outcome.hold.transaction_id) == ("captured", 40, "c")
    assert (book.accounts["alice"].balance, book.accounts["alice"].available) == (60, 60)


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
@pytest.mark.parametrize("command", [CaptureHold("c", "h", None), CaptureHold("c", "h", 1), ReleaseHold("h", "voided")])
def test_who_may_end_a_hold(book: Book, command: Command, placed_by: str | None, caller, expected: str):
    book.accounts["alice"].held = 60
    book.holds["h"] = Hold("h", "alice", 60, 0, "USD", "active", NOW + timedelta(1), None, NOW, placed_by)
    assert code(decide(book, command, caller, NOW)) == expected
    assert (book.accounts["alice"].held == 0) == (expected == "done")


@pytest.mark.parametrize(("caller", "placed_by"), [(ALICE, "owner"), (OPERATOR_CALLER, "operator")])
def test_a_hold_says_who_placed_it(book: Book, caller, placed_by: str):
    outcome = decide(book, PlaceHold("h", "alice", 60, "USD", NOW + timedelta(1)), caller, NOW)
    assert isinstance(outcome, HoldIs) and outcome.hold.placed_by == placed_by
