"""A statement as CSV, with amounts in minor units and as decimal numbers, and without formulas."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from app.formats.base import Format
from app.statements import Line, Statement, Totals
from shared.currencies import major_units
from shared.ids import rfc3339

# New columns come last, because some programs read columns by their position.
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
    "amount_decimal",
    "balance_after_decimal",
)
# Microsoft Excel reads a file without it in the code page of the machine.
_BOM = b"\xef\xbb\xbf"
# Spreadsheets treat a cell that starts with one of these as a formula, some also the full-width forms. In locales with
# a decimal comma, semicolons separate cells.
_FORMULA_START = re.compile(r"(^|;)(?=[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])")


class CsvFormat(Format):
    """A statement as CSV (RFC 4180): a header, the opening balance, the entries, the closing balance."""

    media_type = "text/csv; charset=utf-8"

    def head(self, announced: Totals | None) -> bytes:
        """Return the part before the entries."""
        statement = self._statement
        opening = _balance_row(statement, "opening-balance", statement.start, statement.opening.balance, "")
        return (_BOM if self._options.byte_order_mark else b"") + _rows([CSV_COLUMNS, opening])

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
                major_units(line.amount, currency),
                major_units(line.balance_after, currency),
            )
            for line in lines
        )

    def tail(self, totals: Totals) -> bytes:
        """Return the last row: the closing balance, and whether the statement is complete."""
        statement = self._statement
        completeness = "complete" if statement.complete else "incomplete"
        balance = statement.closing.balance
        return _rows([_balance_row(statement, "closing-balance", statement.end, balance, completeness)])


def _rows(rows: Iterable[Sequence[str | int | None]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _balance_row(
    statement: Statement, kind: str, timestamp: datetime, balance: int, reference: str
) -> tuple[str | int, ...]:
    decimal = major_units(balance, statement.currency)
    return rfc3339(timestamp), kind, "", "", "", reference, statement.currency, "", balance, "", decimal


def _escape_formula(text: str) -> str:
    """Escape text that a spreadsheet would evaluate as a formula."""
    return _FORMULA_START.sub(r"\1'", text)
