"""Prunes the outbox: deletes events that are older than the retention, in short database transactions.

Events that a reader of the outbox, such as the relay, has not read yet are kept. What has been pruned is in the
snapshot (shared.messaging.snapshot).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.db.database import write_transaction
from shared.ids import utc_now
from shared.messaging.outbox import Outbox

log = logging.getLogger(__name__)

# Deleted well within the statement timeout; the pauses leave the disk to requests.
_MAX_ROWS = 1000
_PAUSE_SECONDS = 0.1


# Returns the position up to which a reader has read.
Reader = Callable[[AsyncConnection], Awaitable[int]]


async def prune(engine: AsyncEngine, outbox: Outbox, readers: Sequence[Reader], older_than: timedelta) -> int:
    """Delete events that are older and that all readers have read; return the number of rows."""
    before = utc_now() - older_than
    total, deleted = 0, _MAX_ROWS
    while deleted == _MAX_ROWS:
        async with write_transaction(engine) as connection:
            read = min([await position(connection) for position in readers])
            deleted = await outbox.prune(connection, before=before, read=read, limit=_MAX_ROWS)
        total += deleted
        await asyncio.sleep(_PAUSE_SECONDS)
    if total:
        log.info("outbox pruned", extra={"rows": total})
    return total
