"""Fraud rules: plain functions on plain data, without clock, network or database.

Events arrive in any order and more than once, and a flag is never taken back. So the rules only look at when things
happened, never at when we heard of them, and more entries never make a finding go away: whatever the order, the
same entries end in the same findings.
"""

import uuid
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

from app.domain.amounts import Amounts
from shared.ids import rfc3339

AMOUNT = "amount"
LARGE_AMOUNT = "large-amount"
VELOCITY = "velocity"
RAPID_IN_AND_OUT = "rapid-in-and-out"

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:bank:flag")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A reversal is a correction and not a payment.
_PAYMENTS = frozenset({"transfer", "withdrawal", "capture"})


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a rule finds something; amounts depend on the currency."""

    review_amount: Amounts
    freeze_amount: Amounts
    velocity_count: int
    velocity_seconds: int
    pass_through_share: Decimal
    pass_through_seconds: int
    pass_through_amount: Amounts

    @property
    def window(self) -> timedelta:
        """How far apart two entries can be and still matter to each other."""
        return timedelta(seconds=max(self.velocity_seconds, self.pass_through_seconds))

    def pass_through_debit(self, currency: str) -> Decimal:
        """Return the least debit that can be the way out of a credit that is watched."""
        return self.pass_through_share * self.pass_through_amount.of(currency)


@dataclass(frozen=True, slots=True)
class Entry:
    """A posted entry of a customer's account."""

    account_id: str
    transaction_id: str
    type: str
    seq: int
    amount: int
    currency: str
    created_at: datetime

    @property
    def is_payment(self) -> bool:
        """Tell whether the customer pays."""
        return self.amount < 0 and self.type in _PAYMENTS


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found; the same rule, account and occurrence is the same finding."""

    rule: str
    account_id: str
    occurrence: str
    transaction_id: str
    score: int
    action: Literal["review", "freeze"] = "review"

    @property
    def event_id(self) -> str:
        """The id of the event that tells it, the same whoever finds it and how often."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.rule}/{self.account_id}/{self.occurrence}"))


@dataclass(frozen=True, slots=True)
class LookBack:
    """Accounts whose entries before those at hand can still decide something.

    Of `credits`, entries of `least_credit` or more; which of them matter depends on their currencies.
    """

    debits: frozenset[str]
    credits: frozenset[str]
    least_credit: int


def assess(entries: Iterable[Entry], thresholds: Thresholds) -> list[Finding]:
    """Return what the rules find in the entries of one account, in the order of time."""
    ordered = sorted({entry.transaction_id: entry for entry in entries}.values(), key=_time_of)
    payments = [entry for entry in ordered if entry.is_payment]
    return [
        *_amounts(payments, thresholds),
        *_velocity(payments, thresholds),
        *_pass_through(ordered, thresholds),
    ]


def velocity_occurrence(moment: datetime, thresholds: Thresholds) -> str:
    """Return the start of the fixed stretch of time in which a busy account is flagged once."""
    stretch = timedelta(seconds=thresholds.velocity_seconds)
    return rfc3339(_EPOCH + (moment - _EPOCH) // stretch * stretch)


def look_back(recent: Iterable[Entry], flagged: Collection[tuple[str, str]], thresholds: Thresholds) -> LookBack:
    """Return for which accounts entries before the recent ones are needed.

    `flagged` are (account, occurrence) that velocity has found already. A busy account is flagged soon, and then
    needs no more of its many earlier entries until the next stretch of time.
    """
    payments = [entry for entry in recent if entry.is_payment]
    ways_out = [entry for entry in payments if -entry.amount >= thresholds.pass_through_debit(entry.currency)]
    return LookBack(
        debits=frozenset(
            entry.account_id
            for entry in payments
            if (entry.account_id, velocity_occurrence(entry.created_at, thresholds)) not in flagged
        ),
        credits=frozenset(entry.account_id for entry in ways_out),
        least_credit=min((thresholds.pass_through_amount.of(entry.currency) for entry in ways_out), default=1),
    )


def _time_of(entry: Entry) -> tuple[datetime, int]:
    return entry.created_at, entry.seq


def _amounts(payments: Iterable[Entry], thresholds: Thresholds) -> Iterable[Finding]:
    for payment in payments:
        ids = payment.account_id, payment.transaction_id, payment.transaction_id
        if -payment.amount > thresholds.freeze_amount.of(payment.currency):
            yield Finding(LARGE_AMOUNT, *ids, score=100, action="freeze")
        elif -payment.amount >= thresholds.review_amount.of(payment.currency):
            yield Finding(AMOUNT, *ids, score=60)


def _velocity(payments: Sequence[Entry], thresholds: Thresholds) -> Iterable[Finding]:
    window = timedelta(seconds=thresholds.velocity_seconds)
    found: dict[str, Finding] = {}
    for first, last in zip(payments, payments[thresholds.velocity_count - 1 :]):
        if last.created_at - first.created_at <= window:
            occurrence = velocity_occurrence(last.created_at, thresholds)
            finding = Finding(VELOCITY, last.account_id, occurrence, last.transaction_id, score=50)
            found.setdefault(occurrence, finding)
    return found.values()


def _pass_through(ordered: Iterable[Entry], thresholds: Thresholds) -> Iterable[Finding]:
    window = timedelta(seconds=thresholds.pass_through_seconds)
    # Credits in order of time and of amount: one that is earlier and no smaller than another decides nothing more.
    watched: deque[Entry] = deque()
    for entry in ordered:
        if entry.amount >= thresholds.pass_through_amount.of(entry.currency):
            while watched and watched[-1].amount >= entry.amount:
                watched.pop()
            watched.append(entry)
        elif entry.is_payment:
            while watched and entry.created_at - watched[0].created_at > window:
                watched.popleft()
            if watched and -entry.amount >= thresholds.pass_through_share * watched[0].amount:
                yield Finding(RAPID_IN_AND_OUT, entry.account_id, entry.transaction_id, entry.transaction_id, score=80)
