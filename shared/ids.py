"""Identifiers and times as they appear in the API, in events and in the database."""

from datetime import UTC, datetime

from uuid_utils import uuid7


def new_id() -> str:
    """Return a new UUIDv7 (RFC 9562) as text; later ids of one process sort after earlier ones."""
    return str(uuid7())


def utc_now() -> datetime:
    """Return the current time in UTC, aware of its zone."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Format an aware UTC time as RFC 3339 with microseconds and a trailing Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
