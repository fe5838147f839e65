"""Times as the API takes them in queries."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import BeforeValidator, WithJsonSchema

# A `+` that was not percent-encoded arrives as a space; it can only mean one thing here.
_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]((?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d{1,9})?)"
    r"(?:([Zz])|([+ -])((?:[01]\d|2[0-3]):[0-5]\d))",
    re.ASCII,
)


def _moment(text: Any) -> datetime:
    match = _RFC_3339.fullmatch(str(text))
    if match is None:
        raise ValueError("not an RFC 3339 time with a zone, for example 2026-11-23T12:00:00Z")
    date, time, zulu, sign, offset = match.groups()
    zone = "+00:00" if zulu else f"{'-' if sign == '-' else '+'}{offset}"
    try:
        moment = datetime.fromisoformat(f"{date}T{time}{zone}")
        moment.astimezone(UTC)  # the first and last hours of all years may have no time in UTC
    except (ValueError, OverflowError) as error:
        raise ValueError("there is no such time") from error
    # With the client's offset: that decides which month a time is in.
    return moment


Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-01T00:00:00Z"]}),
]

From = Annotated[Moment | None, Query(alias="from", description="From this time on.")]
To = Annotated[Moment | None, Query(alias="to", description="Before this time.")]
