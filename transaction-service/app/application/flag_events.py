"""The events of flags: of new ones, and of all, for consumers of pruned events (shared/messaging/snapshot.py)."""

import uuid
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from app.storage import queries
from shared.events import CloudEvent, Event, TransactionFlagged, new_event

_LIMIT = 1000


def flag_event(event_id: str, flag: TransactionFlagged, time: datetime, cause: CloudEvent | None = None) -> Event:
    """Return the event of a flag, in the trace of the event of its transaction."""
    return new_event(
        source="transaction-service",
        type_="bank.transaction.flagged",
        subject=flag.account_id,
        time=time,
        data=flag.model_dump(),
        event_id=event_id,
        traceparent=cause.traceparent if cause else None,
        request_id=cause.requestid if cause else None,
    )


async def read_page(connection: AsyncConnection, cursor: str, limit: int = _LIMIT) -> tuple[list[Event], str | None]:
    """Return the events of flags after a cursor, and the next cursor. Raises ValueError for an invalid cursor."""
    found = await queries.flags_by_id(connection, str(uuid.UUID(cursor)) if cursor else None, limit)
    events = [flag_event(row["id"], TransactionFlagged.model_validate(row), row["created_at"]) for row in found]
    return events, found[-1]["id"] if len(found) == limit else None
