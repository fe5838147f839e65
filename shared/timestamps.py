"""Timestamps in query parameters of the API."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import BeforeValidator, WithJsonSchema

# A `+` that was not percent-encoded arrives as a space, so a space is read as `+`.
_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]((?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,9})?)"
    r"(?:([Zz])|([+ -])((?:[01]\d|2[0-3]):[0-5]\d))",
    re.ASCII,
)


def _parse(text: Any) -> datetime:
    match = _RFC_3339.fullmatch(str(text))
    if match is None:
        raise ValueError("not an RFC 3339 timestamp with a UTC offset, for example 2026-11-23T12:00:00Z")
    date, time, zulu, sign, offset = match.groups()
    zone = "+00:00" if zulu else f"{'-' if sign == '-' else '+'}{offset}"
    try:
        timestamp = datetime.fromisoformat(f"{date}T{time}{zone}")
        timestamp.astimezone(UTC)  # raises where the UTC time is before year 1 or after year 9999
    except (ValueError, OverflowError) as error:
        raise ValueError("no such date or time") from error
    # Keep the client's offset: it decides which month the timestamp is in.
    return timestamp


Timestamp = Annotated[
    datetime,
    BeforeValidator(_parse),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-01T00:00:00Z"]}),
]

From = Annotated[Timestamp | None, Query(alias="from", description="Start of the period, inclusive.")]
To = Annotated[Timestamp | None, Query(alias="to", description="End of the period, exclusive.")]
