"""Length of log lines: Docker splits longer ones, and no part is JSON that the log agent can parse."""

from collections.abc import Callable, Iterator
from typing import Any

# Below the 16 KiB at which Docker splits.
MAX_LINE_BYTES = 16_000

# A record in which no value is larger than this has too many of them.
_SMALL_VALUE_BYTES = 100
_COMMON = (
    "timestamp",
    "level",
    "logger",
    "message",
    "service",
    "version",
    "track",
    "instance",
    "request_id",
    "trace_id",
)

Record = dict[str, Any]
Encode = Callable[[Record], str]


def split_into_lines(record: Record, encode: Encode) -> Iterator[str]:
    """Yield the record as lines of at most MAX_LINE_BYTES: lists continue on the next line, texts are shortened."""
    line = encode(record)
    if _fits(line):
        yield line
        return
    sizes = {name: len(encode({"": value}).encode()) for name, value in record.items()}
    largest = max(sizes, key=sizes.__getitem__)
    if sizes[largest] <= _SMALL_VALUE_BYTES:
        yield encode({name: record[name] for name in _COMMON if name in record})
    elif isinstance(record[largest], list) and len(record[largest]) > 1:
        # All lists at once: with one after the other, the number of lines would be the product of their lengths.
        for part in _halves(record):
            yield from split_into_lines(part, encode)
    else:
        value = record[largest]
        text = value if isinstance(value, str) else encode({"": value})
        yield from split_into_lines({**record, largest: _shorten(text)}, encode)


def _fits(line: str) -> bool:
    # A character has at most four bytes; most lines need not be encoded to know.
    return len(line) * 4 <= MAX_LINE_BYTES or len(line.encode()) <= MAX_LINE_BYTES


def _halves(record: Record) -> tuple[Record, Record]:
    first, second = dict(record), dict(record)
    for name, value in record.items():
        if isinstance(value, list):
            middle = (len(value) + 1) // 2
            first[name], second[name] = value[:middle], value[middle:]
    return first, second


def _shorten(text: str) -> str:
    """Return half of the text; the end of a traceback matters as much as its beginning."""
    quarter = len(text) // 4
    return f"{text[:quarter]} … {text[-quarter:]}"
