"""Statements of account: what happened between two times, as JSON or CSV; plain functions on plain data.

A document is made in parts (head, entries page by page, tail), so that a long one is never in memory as a whole.
Without its tail it is not JSON, and lacks the closing balance that every CSV ends with.

A period is a range of `seq`: from after the last entry before it to the last entry in it. So the statements of
adjoining periods share no entry and lose none, and `balance_after` runs through them, even where the clocks of two
replicas of account-service differ by a little.
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
# Entries that are read and written at once.
PAGE = 250

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
# Spreadsheets take a cell that starts with one of these for a formula, some the wide forms as well. Where numbers have
# a decimal comma, cells are what is between semicolons.
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
class Standing:
    """How the account stood at a moment: its last `seq` and the balance after it."""

    seq: int
    balance: int


@dataclass(frozen=True, slots=True)
class Statement:
    """A period of an account, and its first entries, in the order in which they were posted."""

    account_id: str
    currency: str
    start: datetime
    end: datetime
    opening: Standing
    closing: Standing
    watermark: Watermark
    lines: Sequence[Line]

    @property
    def has_more(self) -> bool:
        """Tell whether more entries follow the first ones."""
        return bool(self.lines) and self.lines[-1].seq < self.closing.seq

    @property
    def complete(self) -> bool:
        """Tell whether all entries of the period are known to be here."""
        return self.watermark.covers(self.end) and self.watermark.seq >= self.closing.seq


@dataclass(slots=True)
class Totals:
    """What the entries written so far add up to; `seq` is that of the last of them."""

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

    def are_of(self, statement: Statement) -> bool:
        """Tell whether these are the entries that the head of the statement promises."""
        expected = statement.closing.seq - statement.opening.seq
        return self.seq == statement.closing.seq and (self.count == expected or not statement.complete)


def period(start: datetime | None, end: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """Return the period asked for: by default until now, and from the start of the month that the period ends in.

    A period that ends as a month begins is the month before. Months are those of the offset that `to` was given with.
    Raises Problem (validation-failed) for a period that is empty or too long.
    """
    end = end or now
    start = start or _month_until(end)
    check_period(start, end)
    if end - start > MAX_PERIOD:
        raise _invalid("from", f"is more than {MAX_PERIOD.days} days before `to`; ask for a shorter period")
    return start, end


def check_period(start: datetime | None, end: datetime | None) -> None:
    """Raise Problem (validation-failed) for a period that ends before or as it starts; None is open."""
    if start is not None and end is not None and start >= end:
        raise _invalid("from", f"is not before `to`, which is {rfc3339(end)}")


def _month_until(end: datetime) -> datetime:
    """Return the start of the month that the last moment before `end` is in."""
    try:
        last = end - timedelta(microseconds=1)
        start = last.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        start.astimezone(UTC)
    except OverflowError as error:
        raise _invalid("to", "no month begins before it; give `from` as well") from error
    return start


def _invalid(name: str, detail: str) -> Problem:
    return Problem(
        "validation-failed", "See `errors` for what to change.", [{"pointer": f"/query/{name}", "detail": detail}]
    )


class JsonFormat:
    """A statement as a JSON object: what is known from the start, then the entries, then what they add up to."""

    media_type = "application/json"

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._separator = b""

    def head(self) -> bytes:
        """Return what comes before the entries."""
        statement, watermark = self._statement, self._statement.watermark
        fields = {
            "account_id": statement.account_id,
            "currency": statement.currency,
            "from": rfc3339(statement.start),
            "to": rfc3339(statement.end),
            "complete": statement.complete,
            "complete_through": moment_or_none(watermark.complete_through),
            "watermark": {
                "seq": watermark.seq,
                "account_seq": watermark.account_seq,
                "as_of": moment_or_none(watermark.as_of),
            },
            "opening_balance": statement.opening.balance,
            "closing_balance": statement.closing.balance,
        }
        return orjson.dumps(fields)[:-1] + b',"entries":['

    def entries(self, lines: Sequence[Line]) -> bytes:
        """Return some entries."""
        if not lines:
            return b""
        content = self._separator + orjson.dumps([_entry(line) for line in lines])[1:-1]
        self._separator = b","
        return content

    def tail(self, totals: Totals) -> bytes:
        """Return what comes after the entries."""
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
        """Return what comes before the entries."""
        statement = self._statement
        opening = _balance_row(statement, "opening-balance", statement.start, statement.opening.balance, "")
        return _rows([CSV_COLUMNS, opening])

    def entries(self, lines: Sequence[Line]) -> bytes:
        """Return some entries."""
        currency = self._statement.currency
        return _rows(
            (
                rfc3339(line.created_at),
                line.type,
                line.transaction_id,
                line.seq,
                line.counterparty,
                _cell(line.reference or ""),
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


def moment_or_none(moment: datetime | None) -> str | None:
    """Return a time as the API shows it."""
    return rfc3339(moment) if moment is not None else None


def _rows(rows: Iterable[Sequence[str | int | None]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _balance_row(
    statement: Statement, kind: str, moment: datetime, balance: int, reference: str
) -> tuple[str | int, ...]:
    return rfc3339(moment), kind, "", "", "", reference, statement.currency, "", balance


def _cell(text: str) -> str:
    """Return text that a spreadsheet shows and does not calculate."""
    return _FORMULA_START.sub(r"\1'", text)
