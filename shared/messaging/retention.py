"""Prunes the outbox: deletes events that are older than the retention, in short database transactions.

Events that are not published are kept. What has been pruned is in the snapshot (shared.messaging.snapshot).
"""

import asyncio
import logging
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.database import write_transaction
from shared.ids import utc_now
from shared.messaging.outbox import Outbox
from shared.messaging.relay import Relay

log = logging.getLogger(__name__)

# Deleted well within the statement timeout; the pauses leave the disk to requests.
_MAX_ROWS = 1000
_PAUSE_SECONDS = 0.1


async def prune(engine: AsyncEngine, outbox: Outbox, relay: Relay, older_than: timedelta) -> int:
    """Delete published events that are older; return the number of rows."""
    before = utc_now() - older_than
    total, deleted = 0, _MAX_ROWS
    while deleted == _MAX_ROWS:
        async with write_transaction(engine) as connection:
            published = await relay.published(connection)
            deleted = await outbox.prune(connection, before=before, published=published, limit=_MAX_ROWS)
        total += deleted
        await asyncio.sleep(_PAUSE_SECONDS)
    if total:
        log.info("outbox pruned", extra={"rows": total})
    return total
