"""Statements, on plain data."""

import csv
import io
from datetime import timedelta

import orjson
import pytest

from app.statements import MAX_PERIOD, Line, Opening, Statement, csv_filename, period, to_csv, to_json
from shared.problems import Problem
from tests.support import NOON


def line(seq: int, amount: int, balance_after: int, reference: str | None = None) -> Line:
    return Line(f"transaction-{seq}", "transfer", seq, amount, balance_after, "other", reference, NOON)


def statement(*lines: Line, opening: Opening = Opening(2, 2, 100), last: int | None = None) -> Statement:
    end = last if last is not None else (lines[-1].seq if lines else opening.seq)
    return Statement("account", "USD", NOON, NOON + timedelta(days=1), opening, end, lines)


def test_json():
    shown = orjson.loads(to_json(statement(line(3, 50, 150, "salary"), line(4, -30, 120))))
    assert shown["entries"][0] == {
        **{"transaction_id": "transaction-3", "type": "transfer", "seq": 3, "amount": 50, "balance_after": 150},
        **{"counterparty": "other", "reference": "salary", "created_at": "2026-11-20T12:00:00.000000Z"},
    }
    del shown["entries"]
    assert shown == {
        **{"account_id": "account", "currency": "USD", "complete": True},
        **{"from": "2026-11-20T12:00:00.000000Z", "to": "2026-11-21T12:00:00.000000Z"},
        **{"opening_balance": 100, "closing_balance": 120, "total_credits": 50, "total_debits": 30},
    }


def test_a_period_without_entries_closes_as_it_opened():
    assert statement().closing_balance == 100 and statement().complete


@pytest.mark.parametrize(
    "incomplete",
    [
        statement(line(4, 1, 102)),  # the first of the period is missing
        statement(line(3, 1, 101), line(5, 1, 103)),  # one inside
        statement(line(3, 1, 101), opening=Opening(2, 1, 100)),  # one before
        statement(last=3),
    ],
)
def test_a_gap_makes_it_incomplete(incomplete: Statement):
    assert not incomplete.complete


def test_csv():
    content = to_csv(statement(line(3, 50, 150, 'a "quoted", reference'), line(4, -30, 120, "Zürich")))
    assert content.endswith(b"\r\n")
    header, opening, *entries, closing = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert header == ("created_at type transaction_id seq counterparty reference currency amount balance_after".split())
    assert opening == ["2026-11-20T12:00:00.000000Z", "opening-balance", "", "", "", "", "USD", "", "100"]
    assert [(row[5], row[7], row[8]) for row in entries] == [
        ('a "quoted", reference', "50", "150"),
        ("Zürich", "-30", "120"),
    ]
    assert closing[0:2] == ["2026-11-21T12:00:00.000000Z", "closing-balance"] and closing[-1] == "120"


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")'])
def test_a_reference_is_never_a_formula(formula: str):
    rows = list(csv.reader(io.StringIO(to_csv(statement(line(3, -5, 95, formula))).decode(), newline="")))
    assert rows[2][5] == f"'{formula}"
    assert rows[2][7] == "-5"  # a number stays one


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_nor_is_a_part_of_it_where_cells_are_between_semicolons(start: str):
    content = to_csv(statement(line(3, -5, 95, f"rent;{start}1+1;;{start}2 a-b=c"))).decode()
    assert f"rent;'{start}1+1;;'{start}2 a-b=c" in content
    for row in csv.reader(io.StringIO(content, newline=""), delimiter=";"):
        assert not any(cell.startswith(start) for cell in row)


def test_filename():
    assert csv_filename(statement()) == "statement-account-2026-11-20-2026-11-21.csv"


def test_the_period_is_the_current_month_by_default():
    start, end = period(None, None, NOON)
    assert (start.isoformat(), end) == ("2026-11-01T00:00:00+00:00", NOON)
    assert period(None, NOON - timedelta(days=30), NOON)[0].isoformat() == "2026-10-01T00:00:00+00:00"
    assert period(NOON - MAX_PERIOD, None, NOON) == (NOON - MAX_PERIOD, NOON)


@pytest.mark.parametrize("start", [NOON + timedelta(seconds=1), NOON - MAX_PERIOD - timedelta(seconds=1)])
def test_a_period_that_is_none_or_too_long(start):
    with pytest.raises(Problem) as refused:
        period(start, NOON, NOON)
    assert refused.value.code == "validation-failed"
    assert refused.value.errors[0]["pointer"] == "/query/from"
