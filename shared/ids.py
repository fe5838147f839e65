"""Formats of identifiers and timestamps in the API, in events and in the database."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints
from starlette.convertors import UUIDConvertor, register_url_convertor
from uuid_utils import uuid7

_UUID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"

# Type of ids in requests; either letter case is accepted.
Identifier = Annotated[
    str,
    StringConstraints(pattern=f"^{_UUID}$", to_lower=True),
    Field(examples=["0198c5f0-7d3a-7c1e-9d4b-2f6a1b3c4d5e"]),
]


class _Uuid(UUIDConvertor):
    """Requires hyphens in path ids, as in bodies; Starlette's own converter also accepts ids without them."""

    regex = _UUID.replace("(", "(?:")


register_url_convertor("uuid", _Uuid())


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562) as text; later ids of one process sort after earlier ones."""
    return str(uuid7())


def first_id(timestamp: datetime, seconds: int = 0) -> str:
    """Return the lowest UUIDv7 of a timestamp plus a number of seconds; ids created earlier sort before it."""
    milliseconds = int(timestamp.timestamp() + seconds) * 1000
    return str(UUID(int=max(milliseconds, 0) << 80))


def utc_now() -> datetime:
    """Return the current time as an aware datetime in UTC."""
    return datetime.now(UTC)


@lru_cache(maxsize=256)  # all entries, events and responses of a batch have the same timestamp
def rfc3339(timestamp: datetime) -> str:
    """Format an aware datetime as RFC 3339 in UTC, with microseconds and a trailing Z."""
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
