"""Statements, on plain data."""

import csv
import io
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from app.domain.completeness import Watermark
from app.statements import (
    MAX_PERIOD,
    CsvFormat,
    JsonFormat,
    Line,
    BalanceAt,
    Statement,
    Totals,
    check_period,
    csv_filename,
    period,
)
from shared.http.problems import Problem
from tests.support import NOON

DAY = timedelta(days=1)


def line(seq: int, amount: int, balance_after: int, reference: str | None = None) -> Line:
    return Line(f"transaction-{seq}", "transfer", seq, amount, balance_after, "other", reference, NOON)


def statement(*lines: Line, covered: bool = True, last: int | None = None) -> Statement:
    opening = BalanceAt(2, 100)
    closing = BalanceAt(last or lines[-1].seq, lines[-1].balance_after) if lines else opening
    through = NOON + DAY if covered else NOON
    watermark = Watermark(closing.seq, closing.seq, through, through)
    return Statement("account", "USD", NOON, NOON + DAY, opening, closing, watermark, lines)


def written(form: JsonFormat | CsvFormat, *pages: list[Line]) -> bytes:
    totals = Totals(2)
    content = form.head()
    for page in pages:
        totals.add(page)
        content += form.entries(page)
    return content + form.tail(totals)


def as_csv(*lines: Line, covered: bool = True) -> bytes:
    return written(CsvFormat(statement(*lines, covered=covered)), list(lines))


LINES = [line(3, 50, 150, "salary"), line(4, -30, 120), line(5, -20, 100)]


@pytest.mark.parametrize("pages", [[LINES], [LINES[:1], LINES[1:]], [LINES[:2], [], LINES[2:]]])
def test_json_from_any_number_of_pages(pages: list[list[Line]]):
    shown = orjson.loads(written(JsonFormat(statement(*LINES)), *pages))
    assert shown["entries"][0] == {
        **{"transaction_id": "transaction-3", "type": "transfer", "seq": 3, "amount": 50, "balance_after": 150},
        **{"counterparty": "other", "reference": "salary", "created_at": "2026-11-20T12:00:00.000000Z"},
    }
    assert [entry["seq"] for entry in shown.pop("entries")] == [3, 4, 5]
    end = "2026-11-21T12:00:00.000000Z"
    assert shown == {
        **{"account_id": "account", "currency": "USD", "from": "2026-11-20T12:00:00.000000Z", "to": end},
        **{"complete": True, "complete_through": end, "watermark": {"seq": 5, "account_seq": 5, "as_of": end}},
        **{"opening_balance": 100, "closing_balance": 100, "total_credits": 50, "total_debits": 50},
    }


def test_json_of_a_period_without_entries():
    shown = orjson.loads(written(JsonFormat(statement())))
    assert (shown["entries"], shown["closing_balance"], shown["complete"]) == ([], 100, True)


def test_totals_must_match_the_statement():
    def matches(lines: list[Line], covered: bool = True) -> bool:
        totals = Totals(2)
        totals.add(lines)
        return totals.match(statement(*LINES, covered=covered))

    assert matches(LINES) and matches(LINES, covered=False)
    assert not matches(LINES[1:]) and matches(LINES[1:], covered=False)  # an incomplete statement may have gaps
    assert not matches(LINES[:2]) and not matches(LINES[:2], covered=False)  # the last entry is missing


def test_a_statement_is_complete_only_if_known_to_be():
    assert statement(*LINES).complete and not statement(*LINES, covered=False).complete
    unknown = Watermark(5, None, None, None)
    whole = statement(*LINES)
    outbox_events = Statement("account", "USD", NOON, NOON + DAY, whole.opening, whole.closing, unknown, LINES)
    assert not outbox_events.complete


def test_csv():
    content = as_csv(line(3, 50, 150, 'a "quoted", reference'), line(4, -30, 120, "Zürich"))
    assert content.endswith(b"\r\n")
    header, opening, *entries, closing = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert header == ("created_at type transaction_id seq counterparty reference currency amount balance_after".split())
    assert opening == ["2026-11-20T12:00:00.000000Z", "opening-balance", "", "", "", "", "USD", "", "100"]
    assert [(row[5], row[7], row[8]) for row in entries] == [
        ('a "quoted", reference', "50", "150"),
        ("Zürich", "-30", "120"),
    ]
    assert closing == ["2026-11-21T12:00:00.000000Z", "closing-balance", "", "", "", "complete", "USD", "", "120"]
    assert as_csv(line(3, 50, 150), covered=False).decode().splitlines()[-1].endswith(",incomplete,USD,,150")


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")'])
def test_a_reference_is_never_a_formula(formula: str):
    rows = list(csv.reader(io.StringIO(as_csv(line(3, -5, 95, formula)).decode(), newline="")))
    assert rows[2][5] == f"'{formula}"
    assert rows[2][7] == "-5"  # a number stays one


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_reference_is_no_formula_after_a_semicolon_either(start: str):
    content = as_csv(line(3, -5, 95, f"rent;{start}1+1;;{start}2 a-b=c")).decode()
    assert f"rent;'{start}1+1;;'{start}2 a-b=c" in content
    for row in csv.reader(io.StringIO(content, newline=""), delimiter=";"):
        assert not any(cell.startswith(start) for cell in row)


def test_filename():
    assert csv_filename(statement()) == "statement-account-2026-11-20-2026-11-21.csv"


# Requested period, at noon of 2026-11-20, and the resulting `from` and `to`.
PERIODS = [
    (None, None, "2026-11-01T00:00:00+00:00", "2026-11-20T12:00:00+00:00"),
    ("2026-11-05T00:00:00+00:00", None, "2026-11-05T00:00:00+00:00", "2026-11-20T12:00:00+00:00"),
    # A month's end is the start of the next: by default the month that ends there.
    (None, "2026-12-01T00:00:00+00:00", "2026-11-01T00:00:00+00:00", "2026-12-01T00:00:00+00:00"),
    (None, "2026-12-01T00:00:00.000001+00:00", "2026-12-01T00:00:00+00:00", "2026-12-01T00:00:00.000001+00:00"),
    (None, "2026-11-30T23:59:59.999999+00:00", "2026-11-01T00:00:00+00:00", "2026-11-30T23:59:59.999999+00:00"),
    (None, "2027-01-01T00:00:00+00:00", "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
    (None, "2026-03-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00"),
    (None, "2028-03-01T00:00:00+00:00", "2028-02-01T00:00:00+00:00", "2028-03-01T00:00:00+00:00"),
    (None, "2028-02-29T12:00:00+00:00", "2028-02-01T00:00:00+00:00", "2028-02-29T12:00:00+00:00"),
    # Months are those of the offset that `to` has.
    (None, "2026-12-01T00:00:00+02:00", "2026-11-01T00:00:00+02:00", "2026-12-01T00:00:00+02:00"),
    (None, "2026-12-01T00:00:00-11:00", "2026-11-01T00:00:00-11:00", "2026-12-01T00:00:00-11:00"),
    (None, "2026-12-01T01:00:00+02:00", "2026-12-01T00:00:00+02:00", "2026-12-01T01:00:00+02:00"),
    (None, "2026-11-30T22:00:00+00:00", "2026-11-01T00:00:00+00:00", "2026-11-30T22:00:00+00:00"),
    (None, "9999-12-31T23:59:59+00:00", "9999-12-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"),
    (None, "0001-01-31T00:00:00+00:00", "0001-01-01T00:00:00+00:00", "0001-01-31T00:00:00+00:00"),
    ("2025-11-19T12:00:00+00:00", None, "2025-11-19T12:00:00+00:00", "2026-11-20T12:00:00+00:00"),  # 366 days
    # A leap year, as a whole.
    (
        "2028-01-01T00:00:00+00:00",
        "2029-01-01T00:00:00+00:00",
        "2028-01-01T00:00:00+00:00",
        "2029-01-01T00:00:00+00:00",
    ),
]


@pytest.mark.parametrize(("start", "end", "starts", "ends"), PERIODS)
def test_the_default_period_is_the_month_of_its_end(start: str | None, end: str | None, starts: str, ends: str):
    given = [datetime.fromisoformat(text) if text else None for text in (start, end)]
    found = period(given[0], given[1], NOON)
    assert [moment.isoformat() for moment in found] == [starts, ends]


def test_at_the_start_of_a_month_the_default_is_the_previous_one():
    now = datetime(2027, 1, 1, tzinfo=UTC)
    assert period(None, None, now) == (datetime(2026, 12, 1, tzinfo=UTC), now)


def test_periods_of_two_months_adjoin():
    first = period(None, datetime.fromisoformat("2026-12-01T00:00:00+02:00"), NOON)
    assert period(None, datetime.fromisoformat("2027-01-01T00:00:00+02:00"), NOON)[0] == first[1]


NO_PERIODS = [
    ("2026-11-20T12:00:00.000001+00:00", None, "/query/from"),  # `to` is now
    ("2026-11-20T12:00:00+00:00", None, "/query/from"),
    ("2026-11-20T12:00:00+00:00", "2026-11-20T13:00:00+01:00", "/query/from"),  # the same moment
    ("2026-11-21T00:00:00+00:00", "2026-11-20T00:00:00+00:00", "/query/from"),
    ("2025-11-19T11:59:59+00:00", None, "/query/from"),  # 366 days and a second
    ("0001-01-01T00:00:00+00:00", None, "/query/from"),
    ("9999-12-31T00:00:00+00:00", None, "/query/from"),
    (None, "0001-01-01T00:00:00+00:00", "/query/to"),
    (None, "0001-01-01T02:00:00+02:00", "/query/to"),
]


@pytest.mark.parametrize(("start", "end", "pointer"), NO_PERIODS)
def test_an_empty_or_too_long_period_is_rejected(start: str | None, end: str | None, pointer: str):
    given = [datetime.fromisoformat(text) if text else None for text in (start, end)]
    with pytest.raises(Problem) as refused:
        period(given[0], given[1], NOON)
    assert (refused.value.code, refused.value.errors[0]["pointer"]) == ("validation-failed", pointer)


def test_an_open_period_is_valid():
    for start, end in ((None, None), (NOON, None), (None, NOON), (NOON - MAX_PERIOD * 9, NOON)):
        check_period(start, end)
