"""Statements, on plain data."""

from datetime import UTC, datetime

import pytest

from app.domain.completeness import Watermark
from app.statements import MAX_PERIOD, Line, Statement, Totals, check_period, period
from shared.http.problems import Problem
from tests.support import DAY, LINES, NOON, statement


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
    outbox_events = Statement("account", None, "USD", NOON, NOON + DAY, whole.opening, whole.closing, unknown, LINES)
    assert not outbox_events.complete


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
