"""Statements of account for a period, as JSON or CSV; plain functions on plain data.

A document is written in parts (head, pages of entries, tail), so that a long one is never in memory completely.
Without its tail it is not valid JSON, and lacks the closing balance that every CSV ends with.

A period is a range of `seq`: from the last entry before it (exclusive) to the last entry in it. So the statements of
adjoining periods neither share nor miss an entry, and `balance_after` is continuous, even if the clocks of replicas of
account-service differ slightly.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from app.domain.completeness import Watermark
from shared.ids import rfc3339
from shared.http.problems import Problem

MAX_PERIOD = timedelta(days=366)
# Number of entries per page.
PAGE_SIZE = 250

CSV_COLUMNS = (
    "created_at",
    "type",
    "transaction_id",
    "seq",
    "counterparty",
    "reference",
    "currency",
    "amount",
    "balance_after",
)
# Spreadsheets treat a cell that starts with one of these as a formula, some also the full-width forms. In locales with
# a decimal comma, semicolons separate cells.
_FORMULA_START = re.compile(r"(^|;)(?=[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])")


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
    """A period of an account, and its first entries in posting order."""

    account_id: str
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
    """Totals of the entries written so far; `seq` is that of the last one."""

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


class JsonFormat:
    """A statement as a JSON object: balances and watermark, then the entries, then their totals."""

    media_type = "application/json"

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._separator = b""

    def head(self) -> bytes:
        """Return the part before the entries."""
        statement, watermark = self._statement, self._statement.watermark
        fields = {
            "account_id": statement.account_id,
            "currency": statement.currency,
            "from": rfc3339(statement.start),
            "to": rfc3339(statement.end),
            "complete": statement.complete,
            "complete_through": timestamp_or_none(watermark.complete_through),
            "watermark": {
                "seq": watermark.seq,
                "account_seq": watermark.account_seq,
                "as_of": timestamp_or_none(watermark.as_of),
            },
            "opening_balance": statement.opening.balance,
            "closing_balance": statement.closing.balance,
        }
        return orjson.dumps(fields)[:-1] + b',"entries":['

    def entries(self, lines: Sequence[Line]) -> bytes:
        """Return a page of entries."""
        if not lines:
            return b""
        content = self._separator + orjson.dumps([_entry(line) for line in lines])[1:-1]
        self._separator = b","
        return content

    def tail(self, totals: Totals) -> bytes:
        """Return the part after the entries."""
        return b"]," + orjson.dumps({"total_credits": totals.credits, "total_debits": totals.debits})[1:]


def _entry(line: Line) -> dict[str, Any]:
    return {
        "transaction_id": line.transaction_id,
        "type": line.type,
        "seq": line.seq,
        "amount": line.amount,
        "balance_after": line.balance_after,
        "counterparty": line.counterparty,
        "reference": line.reference,
        "created_at": rfc3339(line.created_at),
    }


class CsvFormat:
    """A statement as CSV (RFC 4180): a header, the opening balance, the entries, the closing balance."""

    media_type = "text/csv; charset=utf-8"

    def __init__(self, statement: Statement) -> None:
        self._statement = statement

    def head(self) -> bytes:
        """Return the part before the entries."""
        statement = self._statement
        opening = _balance_row(statement, "opening-balance", statement.start, statement.opening.balance, "")
        return _rows([CSV_COLUMNS, opening])

    def entries(self, lines: Sequence[Line]) -> bytes:
        """Return a page of entries."""
        currency = self._statement.currency
        return _rows(
            (
                rfc3339(line.created_at),
                line.type,
                line.transaction_id,
                line.seq,
                line.counterparty,
                _escape_formula(line.reference or ""),
                currency,
                line.amount,
                line.balance_after,
            )
            for line in lines
        )

    def tail(self, _totals: Totals) -> bytes:
        """Return the last row: the closing balance, and whether the statement is complete."""
        statement = self._statement
        completeness = "complete" if statement.complete else "incomplete"
        balance = statement.closing.balance
        return _rows([_balance_row(statement, "closing-balance", statement.end, balance, completeness)])


def csv_filename(statement: Statement) -> str:
    """Return a file name for the statement."""
    return f"statement-{statement.account_id}-{statement.start:%Y-%m-%d}-{statement.end:%Y-%m-%d}.csv"


def timestamp_or_none(timestamp: datetime | None) -> str | None:
    """Return a time in the format of the API."""
    return rfc3339(timestamp) if timestamp is not None else None


def _rows(rows: Iterable[Sequence[str | int | None]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _balance_row(
    statement: Statement, kind: str, timestamp: datetime, balance: int, reference: str
) -> tuple[str | int, ...]:
    return rfc3339(timestamp), kind, "", "", "", reference, statement.currency, "", balance


def _escape_formula(text: str) -> str:
    """Escape text that a spreadsheet would evaluate as a formula."""
    return _FORMULA_START.sub(r"\1'", text)
