"""Statements of account: what happened between two times, as JSON or CSV; plain functions on plain data.

A period is a range of `seq`: from after the last entry before it to the last entry in it. So the statements of
adjoining periods share no entry and lose none, and `balance_after` runs through them, even where the clocks of two
replicas of account-service differ by a little.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from shared.ids import rfc3339
from shared.problems import Problem

MAX_PERIOD = timedelta(days=366)
MAX_ENTRIES = 100_000

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


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known of the account before the period: its last `seq`, how many entries have arrived, the balance."""

    seq: int
    count: int
    balance: int


@dataclass(frozen=True, slots=True)
class Statement:
    """The entries of a period, in the order in which they were posted; `last_seq` is that of the period's end."""

    account_id: str
    currency: str
    start: datetime
    end: datetime
    opening: Opening
    last_seq: int
    lines: Sequence[Line]

    @property
    def closing_balance(self) -> int:
        """The balance at the end of the period."""
        return self.lines[-1].balance_after if self.lines else self.opening.balance

    @property
    def complete(self) -> bool:
        """Tell whether all entries up to the end of the period have arrived."""
        no_gap_before = self.opening.count == self.opening.seq
        return no_gap_before and len(self.lines) == self.last_seq - self.opening.seq


def period(start: datetime | None, end: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """Return the period asked for; by default the current month until now.

    Raises Problem (validation-failed) for one that ends before it starts, or is too long.
    """
    end = end or now
    start = start or end.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if start > end:
        raise _invalid("from", f"is after `to`, which is {rfc3339(end)}")
    if end - start > MAX_PERIOD:
        raise _invalid("from", f"is more than {MAX_PERIOD.days} days before `to`; ask for a shorter period")
    return start, end


def too_many_entries() -> Problem:
    """Return the problem of a period with more entries than a statement may have."""
    return _invalid("from", f"the period has more than {MAX_ENTRIES} entries; ask for a shorter one")


def _invalid(name: str, detail: str) -> Problem:
    return Problem(
        "validation-failed", "See `errors` for what to change.", [{"pointer": f"/query/{name}", "detail": detail}]
    )


def to_json(statement: Statement) -> bytes:
    """Return the statement as JSON."""
    return orjson.dumps(
        {
            "account_id": statement.account_id,
            "currency": statement.currency,
            "from": rfc3339(statement.start),
            "to": rfc3339(statement.end),
            "opening_balance": statement.opening.balance,
            "closing_balance": statement.closing_balance,
            "total_credits": sum(line.amount for line in statement.lines if line.amount > 0),
            "total_debits": -sum(line.amount for line in statement.lines if line.amount < 0),
            "complete": statement.complete,
            "entries": [
                {
                    "transaction_id": line.transaction_id,
                    "type": line.type,
                    "seq": line.seq,
                    "amount": line.amount,
                    "balance_after": line.balance_after,
                    "counterparty": line.counterparty,
                    "reference": line.reference,
                    "created_at": rfc3339(line.created_at),
                }
                for line in statement.lines
            ],
        }
    )


def to_csv(statement: Statement) -> bytes:
    """Return the statement as CSV (RFC 4180): a header, the opening balance, the entries, the closing balance."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(CSV_COLUMNS)
    rows.writerow(_balance_row(statement, "opening-balance", statement.start, statement.opening.balance))
    for line in statement.lines:
        rows.writerow(
            (
                rfc3339(line.created_at),
                line.type,
                line.transaction_id,
                line.seq,
                line.counterparty,
                _cell(line.reference or ""),
                statement.currency,
                line.amount,
                line.balance_after,
            )
        )
    rows.writerow(_balance_row(statement, "closing-balance", statement.end, statement.closing_balance))
    return text.getvalue().encode()


def csv_filename(statement: Statement) -> str:
    """Return a file name for the statement."""
    return f"statement-{statement.account_id}-{statement.start:%Y-%m-%d}-{statement.end:%Y-%m-%d}.csv"


def _balance_row(statement: Statement, kind: str, moment: datetime, balance: int) -> tuple[str | int, ...]:
    return rfc3339(moment), kind, "", "", "", "", statement.currency, "", balance


def _cell(text: str) -> str:
    """Return text that a spreadsheet shows and does not calculate."""
    return _FORMULA_START.sub(r"\1'", text)
