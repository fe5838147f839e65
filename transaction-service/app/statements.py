"""Statements of account for a period: plain functions on plain data. `app.formats` writes them as documents.

A period is a range of `seq`: from the last entry before it (exclusive) to the last entry in it. So the statements of
adjoining periods neither share nor miss an entry, and `balance_after` is continuous, even if the clocks of replicas of
account-service differ slightly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.domain.completeness import Watermark
from shared.ids import rfc3339
from shared.http.problems import Problem

MAX_PERIOD = timedelta(days=366)
# Number of entries per page.
PAGE_SIZE = 250
# Number of entries that one query adds up.
TOTALS_SIZE = 50_000


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of the account."""

    transaction_id: str
    type: str
    seq: int
    amount: int
    balance_after: int
    counterparty: str | None
    reference: str | None
    created_at: datetime


@dataclass(frozen=True, order=True, slots=True)
class BalanceAt:
    """The balance of an account at a time, and the `seq` of its last entry."""

    seq: int
    balance: int


@dataclass(frozen=True, slots=True)
class Statement:
    """A period of an account, and its first entries in posting order.

    The account number is None while the history does not have the account yet.
    """

    account_id: str
    account_number: str | None
    currency: str
    start: datetime
    end: datetime
    opening: BalanceAt
    closing: BalanceAt
    watermark: Watermark
    lines: Sequence[Line]

    @property
    def has_more(self) -> bool:
        """Whether more entries follow."""
        return bool(self.lines) and self.lines[-1].seq < self.closing.seq

    @property
    def complete(self) -> bool:
        """Whether all entries of the period are known to be present."""
        return self.watermark.covers(self.end) and self.watermark.seq >= self.closing.seq


@dataclass(slots=True)
class Totals:
    """Totals of entries, from the first one of a statement on; `seq` is that of the last one."""

    seq: int
    count: int = 0
    credits: int = 0
    debits: int = 0

    def add(self, lines: Sequence[Line]) -> None:
        """Add entries."""
        self.seq = lines[-1].seq if lines else self.seq
        self.count += len(lines)
        self.credits += sum(line.amount for line in lines if line.amount > 0)
        self.debits -= sum(line.amount for line in lines if line.amount < 0)

    def merge(self, following: "Totals") -> None:
        """Add the totals of the entries that follow."""
        self.seq = max(self.seq, following.seq)
        self.count += following.count
        self.credits += following.credits
        self.debits += following.debits

    def match(self, statement: Statement) -> bool:
        """Return whether these are the entries that the statement's head announces."""
        expected = statement.closing.seq - statement.opening.seq
        return self.seq == statement.closing.seq and (self.count == expected or not statement.complete)


def period(start: datetime | None, end: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """Return the requested period: by default until now, and from the start of the month in which it ends.

    A period that ends at the start of a month starts with the previous month. Months follow the UTC offset of `to`.
    Raises Problem (validation-failed) for an empty or too long period.
    """
    end = end or now
    start = start or _month_until(end)
    check_period(start, end)
    if end - start > MAX_PERIOD:
        raise _invalid("from", f"is more than {MAX_PERIOD.days} days before `to`; ask for a shorter period")
    return start, end


def check_period(start: datetime | None, end: datetime | None) -> None:
    """Raise Problem (validation-failed) for an empty period; None means unbounded."""
    if start is not None and end is not None and start >= end:
        raise _invalid("from", f"is not before `to`, which is {rfc3339(end)}")


def _month_until(end: datetime) -> datetime:
    """Return the start of the month that contains the instant before `end`."""
    try:
        last = end - timedelta(microseconds=1)
        start = last.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        start.astimezone(UTC)
    except OverflowError as error:
        raise _invalid("to", "is too early for a default; specify `from` as well") from error
    return start


def _invalid(name: str, detail: str) -> Problem:
    return Problem(
        "validation-failed", "See `errors` for what to change.", [{"pointer": f"/query/{name}", "detail": detail}]
    )


def timestamp_or_none(timestamp: datetime | None) -> str | None:
    """Return a time in the format of the API."""
    return rfc3339(timestamp) if timestamp is not None else None
