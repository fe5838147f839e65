"""The fraud rules, on plain data."""

import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.amounts import Amounts, parse
from app.fraud import Entry, Finding, Thresholds, evaluate, lookback_window, velocity_window_start
from shared.ids import new_id
from tests.support import NOON

LIMITS = Thresholds(
    review_amount=Amounts(1000),
    freeze_amount=Amounts(5000),
    velocity_count=3,
    velocity_seconds=60,
    pass_through_share=Decimal("0.9"),
    pass_through_seconds=60,
    pass_through_amount=Amounts(100),
)


def entry(amount: int, seconds: float = 0, seq: int = 1, type_: str = "transfer", currency: str = "USD") -> Entry:
    return Entry("account", new_id(), type_, seq, amount, currency, NOON + timedelta(seconds=seconds))


def rules(entries: Iterable[Entry]) -> list[str]:
    return [finding.rule for finding in evaluate(entries, LIMITS)]


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (-999, []),
        (-1000, [("amount", "review")]),
        (-5000, [("amount", "review")]),
        (-5001, [("large-amount", "freeze")]),
        (5001, []),
    ],
)
def test_amounts(amount: int, expected: list[tuple[str, str]]):
    assert [(finding.rule, finding.action) for finding in evaluate([entry(amount)], LIMITS)] == expected


@pytest.mark.parametrize("type_", ["transfer", "withdrawal", "capture"])
def test_payments_are_evaluated(type_: str):
    assert rules([entry(-6000, type_=type_)]) == ["large-amount"]


@pytest.mark.parametrize("type_", ["reversal", "deposit"])
def test_corrections_are_not_evaluated(type_: str):
    assert rules([entry(-6000, type_=type_)]) == []


def test_velocity_counts_the_payments_in_the_window():
    assert rules([entry(-1, 0, 1), entry(-1, 30, 2), entry(-1, 60, 3)]) == ["velocity"]
    assert rules([entry(-1, 0, 1), entry(-1, 30, 2), entry(-1, 60.001, 3)]) == []
    assert rules([entry(-1, 0, 1), entry(1, 1, 2), entry(-1, 2, 3)]) == []


def test_velocity_flags_an_account_once_per_window_and_never_freezes_it():
    busy = [entry(-1, second, second + 1) for second in range(180)]
    found = evaluate(busy, LIMITS)
    assert [finding.rule for finding in found] == ["velocity"] * 3
    assert {finding.action for finding in found} == {"review"}
    assert found[0].dedup_key == "2026-11-20T12:00:00.000000Z"


@pytest.mark.parametrize(
    ("credit", "debit", "seconds", "found"),
    [
        (100, -90, 60, True),
        (100, -89, 1, False),
        (99, -99, 1, False),
        (100, -100, 60.001, False),
        (100, -500, 1, True),
        (10**15, -(10**15), 1, True),
    ],
)
def test_pass_through(credit: int, debit: int, seconds: float, found: bool):
    flagged = rules([entry(credit, 0, 1), entry(debit, seconds, 2)])
    assert ("rapid-in-and-out" in flagged) is found


def test_a_debit_before_the_credit_is_not_flagged():
    assert rules([entry(-100, 0, 1), entry(100, 0, 2)]) == []
    assert rules([entry(100, 0, 1), entry(-100, 0, 2)]) == ["rapid-in-and-out"]


def test_the_smallest_recent_credit_decides():
    first, second = entry(100, 0, 1), entry(900, 30, 2)
    assert rules([first, second, entry(-95, 50, 3)]) == ["rapid-in-and-out"]
    assert rules([first, second, entry(-95, 70, 3)]) == []
    assert rules([first, second, entry(-95, 70, 3), entry(-820, 71, 4)]) == ["rapid-in-and-out"]


def test_the_event_id_is_derived_from_the_finding():
    one = Finding("amount", "account", "transaction", "transaction", 60)
    same = Finding("amount", "account", "transaction", "other", 99)
    other = Finding("amount", "account", "transaction-2", "transaction", 60)
    assert one.event_id == same.event_id != other.event_id


def test_the_lookback_window_excludes_flagged_accounts():
    small, large = entry(-1), Entry("rich", new_id(), "transfer", 1, -95, "USD", NOON)
    recent = [small, large, entry(1)]
    wanted = lookback_window(recent, set(), LIMITS)
    assert (wanted.debits, wanted.credits) == ({"account", "rich"}, {"rich"})
    stretch = velocity_window_start(NOON, LIMITS)
    assert lookback_window(recent, {("account", stretch)}, LIMITS).debits == {"rich"}


ENTRIES = st.lists(
    st.tuples(st.sampled_from([-6000, -1000, -95, -1, 1, 100, 105]), st.sampled_from([0, 1, 20, 60, 61, 100])),
    max_size=12,
).map(lambda found: [entry(amount, seconds, seq) for seq, (amount, seconds) in enumerate(found, start=1)])


def identities(found: Iterable[Finding]) -> set[tuple[str, str]]:
    return {(finding.rule, finding.dedup_key) for finding in found}


def by_definition(entries: list[Entry]) -> set[tuple[str, str]]:
    """A naive implementation of the rules."""
    found = set()
    payments = [entry for entry in entries if entry.is_payment]
    for payment in payments:
        amount, moment = -payment.amount, payment.created_at
        if amount >= LIMITS.review_amount.cents:
            found.add(("large-amount" if amount > LIMITS.freeze_amount.cents else "amount", payment.transaction_id))
        before = [one for one in payments if timedelta(0) <= moment - one.created_at <= timedelta(seconds=60)]
        if len(before) >= LIMITS.velocity_count:
            found.add(("velocity", velocity_window_start(moment, LIMITS)))
        for credit in entries:
            is_before = (credit.created_at, credit.seq) < (moment, payment.seq)
            if credit.amount >= 100 and is_before and moment - credit.created_at <= timedelta(seconds=60):
                if amount >= LIMITS.pass_through_share * credit.amount:
                    found.add(("rapid-in-and-out", payment.transaction_id))
    return found


@given(ENTRIES, st.randoms())
def test_the_rules_match_a_naive_implementation(entries: list[Entry], chance: random.Random):
    mixed = entries + chance.sample(entries, len(entries) // 2)
    chance.shuffle(mixed)
    assert identities(evaluate(mixed, LIMITS)) == by_definition(entries)


@given(ENTRIES, st.integers(0, 11))
def test_more_entries_never_remove_a_finding(entries: list[Entry], count: int):
    assert identities(evaluate(entries[:count], LIMITS)) <= identities(evaluate(entries, LIMITS))


def test_a_window_starts_at_a_multiple_of_its_length():
    assert velocity_window_start(datetime.fromisoformat("2026-11-20T12:01:59.999999+00:00"), LIMITS) == (
        "2026-11-20T12:01:00.000000Z"
    )


DEFAULTS = Thresholds(Amounts(1_000_000), Amounts(10_000_000), 20, 60, Decimal("0.9"), 60, Amounts(100_000))


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        (10_000_001, "USD", "freeze"),
        (10_000_000_00, "IDR", None),  # ten million rupiahs, 600 dollars
        (17_000_000_000, "IDR", "review"),
        (170_000_000_000, "IDR", "freeze"),
        (10_000_000, "KWD", "review"),  # ten thousand dinars, 32,000 dollars
        (31_000_001, "KWD", "freeze"),
        (10_000_001, "JPY", "review"),
        (15_000_001, "JPY", "freeze"),
        (1_000_000, "JPY", None),
        (10_000_001, "ZZZ", "freeze"),
    ],
)
def test_thresholds_are_converted_to_the_currency(amount: int, currency: str, expected: str | None):
    found = evaluate([entry(-amount, currency=currency)], DEFAULTS)
    assert [finding.action for finding in found] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("credit", "currency", "found"), [(100_000, "KWD", 1), (100_000, "IDR", 0), (310_000, "KWD", 1)]
)
def test_the_pass_through_threshold_is_converted_to_the_currency(credit: int, currency: str, found: int):
    limits = Thresholds(Amounts(10**9), Amounts(10**9), 20, 60, Decimal("0.9"), 60, Amounts(30_000))
    both = [entry(credit, 0, 1, currency=currency), entry(-credit, 1, 2, currency=currency)]
    assert len(evaluate(both, limits)) == found
    wanted = lookback_window(both, set(), limits)
    assert (wanted.credits, wanted.min_credit) == ({"account"} if found else set(), 93_000 if found else 1)


def test_thresholds_can_be_set_per_currency():
    amounts = parse("1000, EUR=900,JPY = 7")
    assert [amounts.in_currency(currency) for currency in ("USD", "EUR", "JPY", "CHF")] == [1000, 900, 7, 800]
    assert (
        parse("1").in_currency("CLF") == 2 and parse("1").in_currency("KWD") == 3 and parse("1").in_currency("JPY") == 1
    )


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "neither"),
        ("EUR=5", "missing"),
        ("0", "between"),
        ("1000,EUR=0", "between"),
        ("-1", "neither"),
        ("1e6", "neither"),
        ("1000,eur=5", "neither"),
        ("1000,EUR", "neither"),
        ("1000,EURO=5", "neither"),
        ("1000;EUR=5", "neither"),
        ("1000,", "neither"),
        ("1000,2000", "twice"),
        ("1000,EUR=5,EUR=6", "twice"),
        ("1000000000000001", "between"),
        ("\u0661", "neither"),
    ],
)
def test_invalid_amounts_are_rejected(text: str, wrong: str):
    with pytest.raises(ValueError, match=wrong):
        parse(text)
