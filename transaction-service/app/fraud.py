"""Fraud rules: plain functions on plain data, without clock, network or database.

Events arrive in any order and more than once, and a flag is never withdrawn. So the rules only use the time of an
entry, never the time of arrival, and more entries never remove a finding: the same entries yield the same findings in
any order.
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
# Stored in flags and part of their ids, so this name of the rule cannot change.
PASS_THROUGH = "rapid-in-and-out"  # nosec B105

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:bank:flag")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A reversal is a correction and not a payment.
_PAYMENTS = frozenset({"transfer", "withdrawal", "capture"})


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of the rules; amounts depend on the currency."""

    review_amount: Amounts
    freeze_amount: Amounts
    velocity_count: int
    velocity_seconds: int
    pass_through_share: Decimal
    pass_through_seconds: int
    pass_through_amount: Amounts

    @property
    def window(self) -> timedelta:
        """Maximum time between two entries that a rule combines."""
        return timedelta(seconds=max(self.velocity_seconds, self.pass_through_seconds))

    def min_pass_through_debit(self, currency: str) -> Decimal:
        """Return the smallest debit that the pass-through rule can flag."""
        return self.pass_through_share * self.pass_through_amount.in_currency(currency)


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
        """Whether it is a debit by a payment."""
        return self.amount < 0 and self.type in _PAYMENTS


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of a rule; `dedup_key` identifies it among those of its rule and account."""

    rule: str
    account_id: str
    dedup_key: str
    transaction_id: str
    score: int
    action: Literal["review", "freeze"] = "review"

    @property
    def event_id(self) -> str:
        """Id of its event, equal on all replicas and on every evaluation."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.rule}/{self.account_id}/{self.dedup_key}"))


@dataclass(frozen=True, slots=True)
class LookbackWindow:
    """Accounts whose earlier debits are needed, and those whose earlier credits of at least `min_credit` are."""

    debits: frozenset[str]
    credits: frozenset[str]
    min_credit: int


def evaluate(entries: Iterable[Entry], thresholds: Thresholds) -> list[Finding]:
    """Evaluate the rules on the entries of one account."""
    ordered = sorted({entry.transaction_id: entry for entry in entries}.values(), key=_time_of)
    payments = [entry for entry in ordered if entry.is_payment]
    return [
        *_amounts(payments, thresholds),
        *_velocity(payments, thresholds),
        *_pass_through(ordered, thresholds),
    ]


def velocity_window_start(timestamp: datetime, thresholds: Thresholds) -> str:
    """Return the start of the fixed window that contains a time; velocity flags an account once per window."""
    window = timedelta(seconds=thresholds.velocity_seconds)
    return rfc3339(_EPOCH + (timestamp - _EPOCH) // window * window)


def lookback_window(
    recent: Iterable[Entry], flagged: Collection[tuple[str, str]], thresholds: Thresholds
) -> LookbackWindow:
    """Return the accounts for which entries before the recent ones are needed.

    `flagged` are the (account, window start) pairs that velocity has flagged: such an account needs none of its many
    earlier entries until the next window.
    """
    payments = [entry for entry in recent if entry.is_payment]
    payouts = [entry for entry in payments if -entry.amount >= thresholds.min_pass_through_debit(entry.currency)]
    return LookbackWindow(
        debits=frozenset(
            entry.account_id
            for entry in payments
            if (entry.account_id, velocity_window_start(entry.created_at, thresholds)) not in flagged
        ),
        credits=frozenset(entry.account_id for entry in payouts),
        min_credit=min((thresholds.pass_through_amount.in_currency(entry.currency) for entry in payouts), default=1),
    )


def _time_of(entry: Entry) -> tuple[datetime, int]:
    return entry.created_at, entry.seq


def _amounts(payments: Iterable[Entry], thresholds: Thresholds) -> Iterable[Finding]:
    for payment in payments:
        ids = payment.account_id, payment.transaction_id, payment.transaction_id
        if -payment.amount > thresholds.freeze_amount.in_currency(payment.currency):
            yield Finding(LARGE_AMOUNT, *ids, score=100, action="freeze")
        elif -payment.amount >= thresholds.review_amount.in_currency(payment.currency):
            yield Finding(AMOUNT, *ids, score=60)


def _velocity(payments: Sequence[Entry], thresholds: Thresholds) -> Iterable[Finding]:
    window = timedelta(seconds=thresholds.velocity_seconds)
    findings: dict[str, Finding] = {}
    for first, last in zip(payments, payments[thresholds.velocity_count - 1 :]):
        if last.created_at - first.created_at <= window:
            window_start = velocity_window_start(last.created_at, thresholds)
            finding = Finding(VELOCITY, last.account_id, window_start, last.transaction_id, score=50)
            findings.setdefault(window_start, finding)
    return findings.values()


def _pass_through(ordered: Iterable[Entry], thresholds: Thresholds) -> Iterable[Finding]:
    window = timedelta(seconds=thresholds.pass_through_seconds)
    # Credits by increasing time and amount: an earlier credit that is no smaller than a later one has no effect.
    candidates: deque[Entry] = deque()
    for entry in ordered:
        if entry.amount >= thresholds.pass_through_amount.in_currency(entry.currency):
            while candidates and candidates[-1].amount >= entry.amount:
                candidates.pop()
            candidates.append(entry)
        elif entry.is_payment:
            while candidates and entry.created_at - candidates[0].created_at > window:
                candidates.popleft()
            if candidates and -entry.amount >= thresholds.pass_through_share * candidates[0].amount:
                yield Finding(PASS_THROUGH, entry.account_id, entry.transaction_id, entry.transaction_id, score=80)
