"""Decisions about transaction groups, on plain data."""

from datetime import UTC, datetime

import pytest

from app.domain import commands
from app.domain.model import Account, Transaction
from app.domain.unit_of_work import UnitOfWork
from app.ledger import decide
from shared.http.auth import SYNTHETIC, Caller
from tests.support import ALICE, BOB, OPERATOR_CALLER

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Leg = tuple[str, str, int]
CURRENCIES = {"euro": "EUR", "yen": "JPY"}


@pytest.fixture
def unit() -> UnitOfWork:
    """Alice has 100 USD, of which she may debit 80 per day, and 50 EUR; Bob has nothing."""
    accounts = [
        Account("alice", "1", "alice", None, "customer", "USD", "active", 100, 0, 4, NOW),
        Account("savings", "2", "alice", None, "customer", "USD", "active", 0, 0, 0, NOW),
        Account("euro", "3", "alice", None, "customer", "EUR", "active", 50, 0, 0, NOW),
        Account("bob", "4", "bob", None, "customer", "USD", "active", 0, 0, 0, NOW),
        Account("bobs-euro", "5", "bob", None, "customer", "EUR", "active", 0, 0, 0, NOW),
    ]
    accounts[0].daily_debit_limit, accounts[0].debited, accounts[0].debited_since = 80, 0, NOW
    return UnitOfWork({account.id: account for account in accounts}, {})


def group(*legs: Leg, id_: str = "g") -> commands.PostGroup:
    """Return a group; the ids of its legs are those of the group with a number."""
    return commands.PostGroup(
        id_,
        tuple(
            commands.Transfer(f"{id_}{number}", payer, payee, amount, CURRENCIES.get(payer, "USD"), None, None, id_)
            for number, (payer, payee, amount) in enumerate(legs)
        ),
    )


def reversal(id_: str = "r", group_id: str = "g") -> commands.ReverseGroup:
    return commands.ReverseGroup(id_, tuple(f"{id_}{number}" for number in range(9)), group_id, "wrong")


def refusal(result: object) -> tuple[str, int | None]:
    assert isinstance(result, commands.Refusal)
    return result.code, result.leg


def state(unit: UnitOfWork) -> object:
    """Return everything in the unit that decisions change, events excepted."""
    accounts = [(one.balance, one.seq, one.held, one.debited) for one in unit.accounts.values()]
    changes = {*unit.changed_accounts}, {*unit.changed_limits}, [*unit.transactions], [*unit.entries]
    return (
        accounts,
        changes,
        {**unit.reversible},
        {id_: amount for id_, amount in unit.reversed_amounts.items() if amount},
    )


def balances(unit: UnitOfWork) -> dict[str, int]:
    return {id_: account.balance for id_, account in unit.accounts.items() if account.balance}


def test_legs_are_posted_in_order_and_have_the_id_of_the_group(unit: UnitOfWork):
    legs = [("alice", "savings", 70), ("savings", "bob", 70), ("euro", "bobs-euro", 5)]
    result = decide(unit, group(*legs), ALICE, NOW)

    assert isinstance(result, commands.GroupResult)
    assert [leg.transaction.id for leg in result.legs] == ["g0", "g1", "g2"]
    assert {leg.transaction.group_id for leg in result.legs} == {"g"}
    assert [leg.transaction for leg in result.legs] == unit.transactions
    assert balances(unit) == {"alice": 30, "bob": 70, "euro": 45, "bobs-euro": 5}
    assert [event.type for event in unit.events] == ["bank.entry.posted"] * 6
    assert {event.data["group_id"] for event in unit.events} == {"g"}
    # The other way round, the first leg has nothing to pay with.
    assert refusal(decide(unit, group(*reversed(legs[:2]), id_="h"), OPERATOR_CALLER, NOW)) == ("insufficient-funds", 0)


@pytest.mark.parametrize(
    ("last", "code", "has_event"),
    [
        (("alice", "bob", 81), "insufficient-funds", True),
        (("alice", "bob", 41), "daily-limit-exceeded", True),
        (("alice", "closed", 1), "account-closed", True),
        (("alice", "nobody", 1), "not-found", False),
        (("bob", "alice", 1), "not-found", False),
        (("alice", "alice", 1), "same-account", False),
        (("euro", "bob", 1), "currency-mismatch", False),
        (("yen", "bob", 1), "too-many-currencies", False),
    ],
)
def test_a_refused_leg_undoes_those_before_it(unit: UnitOfWork, last: Leg, code: str, has_event: bool):
    unit.accounts["closed"] = Account("closed", "6", "bob", None, "customer", "USD", "closed", 0, 0, 0, NOW)
    decide(unit, group(("alice", "bob", 20), id_="before"), ALICE, NOW)
    unit.events.clear()
    before = state(unit)
    legs = [("alice", "savings", 20), ("euro", "bobs-euro", 5), last, ("alice", "bob", 1)]
    assert refusal(decide(unit, group(*legs), ALICE, NOW)) == (code, 2)
    assert state(unit) == before
    assert [(event.type, event.data["transaction_id"], event.data["group_id"]) for event in unit.events] == (
        [("bank.transaction.refused", "g2", "g")] if has_event else []
    )


@pytest.mark.parametrize(("payee", "expected"), [("savings", "done"), ("bob", "forbidden")])
def test_synthetic_money_stays_on_the_callers_own_accounts(unit: UnitOfWork, payee: str, expected: str):
    caller = Caller("alice", frozenset({SYNTHETIC}))
    result = decide(unit, group(("alice", "savings", 1), ("alice", payee, 1)), caller, NOW)
    assert (result.code if isinstance(result, commands.Refusal) else "done") == expected
    assert refusal(decide(unit, reversal(), caller, NOW)) == ("forbidden", None)


def test_a_group_is_reversed_from_its_last_leg_to_its_first(unit: UnitOfWork):
    """Bob's account is empty after the first leg: only the reversal of the second one pays for the others."""
    decide(unit, group(("alice", "bob", 70), ("bob", "savings", 70)), OPERATOR_CALLER, NOW)
    result = decide(unit, reversal(), OPERATOR_CALLER, NOW)
    assert isinstance(result, commands.GroupResult) and result.id == "r"
    posted = [leg.transaction for leg in result.legs]
    assert [(one.id, one.type, one.reverses, one.group_id, one.reference) for one in posted] == [
        ("r0", "reversal", "g1", "r", "wrong"),
        ("r1", "reversal", "g0", "r", "wrong"),
    ]
    assert balances(unit) == {"alice": 100, "euro": 50}
    assert refusal(decide(unit, reversal("s"), OPERATOR_CALLER, NOW)) == ("already-reversed", None)
    assert refusal(decide(unit, reversal("s", "r"), OPERATOR_CALLER, NOW)) == ("not-reversible", 1)


def test_what_is_left_of_each_leg_is_reversed(unit: UnitOfWork):
    decide(unit, group(("alice", "bob", 20), ("alice", "bob", 30), ("alice", "bob", 10)), ALICE, NOW)
    decide(unit, commands.Reverse("part", "g0", None, 5), BOB, NOW)
    decide(unit, commands.Reverse("whole", "g1", None), BOB, NOW)
    result = decide(unit, reversal(), BOB, NOW)
    assert isinstance(result, commands.GroupResult)
    assert [(leg.transaction.reverses, leg.transaction.amount) for leg in result.legs] == [("g2", 10), ("g0", 15)]


def test_a_refused_reversal_of_a_group_changes_nothing(unit: UnitOfWork):
    decide(unit, group(("alice", "bob", 20), ("alice", "savings", 10), ("alice", "bob", 30)), ALICE, NOW)
    unit.accounts["savings"].status = "frozen"
    unit.events.clear()
    before = state(unit)
    assert refusal(decide(unit, reversal(), OPERATOR_CALLER, NOW)) == ("account-frozen", 1)
    assert state(unit) == before
    assert [(event.type, event.data["group_id"]) for event in unit.events] == [("bank.transaction.refused", "r")]
    unit.accounts["savings"].status = "active"
    assert isinstance(decide(unit, reversal(), OPERATOR_CALLER, NOW), commands.GroupResult)
    assert balances(unit) == {"alice": 100, "euro": 50}


@pytest.mark.parametrize(
    ("payees", "caller", "expected"),
    [
        (("bob", "bob"), BOB, "done"),
        (("bob", "bob"), OPERATOR_CALLER, "done"),
        (("bob", "savings"), OPERATOR_CALLER, "done"),
        (("bob", "bob"), ALICE, ("forbidden", 1)),
        # Alice has received the last leg only.
        (("bob", "savings"), ALICE, ("forbidden", 0)),
        (("savings", "savings"), ALICE, "done"),
        (("savings", "savings"), BOB, ("not-found", None)),
        # Bob does not see the other leg.
        (("bob", "savings"), BOB, ("forbidden", None)),
    ],
)
def test_permission_to_reverse_a_group(unit: UnitOfWork, payees: tuple[str, str], caller: Caller, expected: object):
    posted = [
        Transaction(f"g{number}", "transfer", 10, "USD", "alice", payee, None, None, NOW, None, "g")
        for number, payee in enumerate(payees)
    ]
    unit.reversible = {one.id: one for one in posted}
    for payee in payees:
        unit.accounts[payee].balance += 10
    result = decide(unit, reversal(), caller, NOW)
    assert (refusal(result) if isinstance(result, commands.Refusal) else "done") == expected


def test_an_unknown_group_is_not_reversed(unit: UnitOfWork):
    decide(unit, group(("alice", "bob", 1)), ALICE, NOW)
    assert refusal(decide(unit, reversal(group_id="other"), OPERATOR_CALLER, NOW)) == ("not-found", None)
