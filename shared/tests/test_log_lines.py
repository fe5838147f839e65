"""Lines of records that are larger than a line may be."""

import json
import logging
from typing import Any

import pytest

from shared.logging_config import JsonFormatter, MaskingFilter
from shared.observability.log_lines import MAX_LINE_BYTES

STATIC = {"service": "account-service", "version": "v1", "track": "stable"}


def lines_of(message: str, **extra: Any) -> list[dict[str, Any]]:
    """Return the lines that a record is logged as; each must fit and be JSON."""
    record = logging.LogRecord("test", logging.INFO, __file__, 1, message, None, None)
    vars(record).update(extra)
    MaskingFilter().filter(record)
    lines = JsonFormatter(STATIC).format(record).split("\n")
    assert all(len(line.encode()) <= MAX_LINE_BYTES < 16 * 1024 for line in lines)
    entries = [json.loads(line) for line in lines]
    assert all(STATIC.items() <= entry.items() and entry["level"] == "INFO" for entry in entries)
    return entries


@pytest.mark.parametrize("character", ["a", '"', "\\", "\x01", "é", "€", "\U0001f600", "\ud800"])
@pytest.mark.parametrize("field", ["message", "detail", "exception"])
def test_long_texts_are_shortened_in_the_middle(character: str, field: str):
    text = f"begin {character * 20_000} end"
    values = {"detail": text} if field == "detail" else {"exc_text": text} if field == "exception" else {}
    (line,) = lines_of(text if field == "message" else "short", **values)
    assert line[field].startswith("begin ") and line[field].endswith(" end") and " … " in line[field]


def test_long_lists_continue_on_further_lines():
    requests = [f"{'r' * 120}-{number}" for number in range(1000)]
    lines = lines_of("committed", requests=1000, request_ids=requests, trace_ids=requests[:300])
    assert [one for line in lines for one in line["request_ids"]] == requests
    assert [one for line in lines for one in line["trace_ids"]] == requests[:300]
    assert {(line["message"], line["requests"]) for line in lines} == {("committed", 1000)} and len(lines) <= 32


@pytest.mark.parametrize(
    "extra",
    [
        {"nested": {"deep": ["x" * 30_000]}},
        {"list": ["x" * 30_000]},
        {"list": [{"text": "x" * 9_000}, {"text": "y" * 9_000}], "text": "z" * 9_000},
        {f"field_{number}": number for number in range(3_000)},
        {"x" * 20_000: 1},
    ],
)
def test_other_large_values_fit(extra: dict[str, Any]):
    assert all(line["message"] == "text" for line in lines_of("text", **extra))


def test_a_record_that_fits_is_one_line():
    assert lines_of("text", list=["x" * 1000] * 15)[0]["list"] == ["x" * 1000] * 15
