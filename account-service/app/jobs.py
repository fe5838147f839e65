"""Periodic jobs: release expired holds, purge old idempotency keys, measure the imbalance, check events."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.queries import Queries
from app.application.requests import EVENT_SUBJECT, SYSTEM, LedgerRequest, RequestContext
from app.domain.commands import ReleaseHold
from app.models import idempotency_keys
from app.prometheus import EVENT_MISMATCHES, HOLD_MISMATCHES, IMBALANCE
from app.service import AccountService
from app.storage import event_check, hold_check, repository
from shared.http import idempotency
from shared.db.database import write_transaction
from shared.ids import utc_now
from shared.prometheus.checks import CHECKED

log = logging.getLogger(__name__)

_MAX_HOLDS = 500
# Deleted well within the statement timeout.
_MAX_KEYS = 10_000


async def run_sequentially(*checks: Callable[[], Awaitable[None]]) -> None:
    """Run checks one after the other, so that they need a single database connection."""
    for check in checks:
        await check()


async def release_expired_holds(engine: AsyncEngine, service: AccountService) -> int:
    """Release holds that have expired, up to a limit; return how many there were."""
    async with engine.connect() as connection:
        expired = await repository.expired_holds(connection, utc_now(), _MAX_HOLDS)
    requests = [
        LedgerRequest(SYSTEM, ReleaseHold(hold_id, "expired"), 200, RequestContext("/holds")) for hold_id in expired
    ]
    await asyncio.gather(*(service.execute(request) for request in requests))
    return len(expired)


async def purge_expired_keys(engine: AsyncEngine, retention_days: int) -> None:
    """Delete idempotency keys that are older than the retention; keys of events are kept."""
    before = utc_now() - timedelta(days=retention_days)
    deleted = _MAX_KEYS
    while deleted == _MAX_KEYS:
        async with write_transaction(engine) as connection:
            deleted = await idempotency.purge(
                connection, idempotency_keys, before=before, keep_subjects=[EVENT_SUBJECT], limit=_MAX_KEYS
            )


async def measure_imbalance(queries: Queries) -> None:
    """Set the imbalance metric of each currency."""
    for currency, total in (await queries.imbalance()).items():
        IMBALANCE.labels(currency).set(total)
    CHECKED.labels("ledger").set_to_current_time()


class EventCheck:
    """Compares the newest transactions with their events; each pass continues after the last one."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._after: str | None = None

    async def run(self) -> None:
        """Compare, and count the mismatches; the first pass only finds where to start."""
        async with self._engine.connect() as connection:
            if self._after is None:
                self._after = await event_check.newest_transaction(connection)
                return
            mismatches, self._after = await event_check.compare_newest(connection, self._after)
        for kind, count in mismatches.items():
            EVENT_MISMATCHES.labels(kind).inc(count)
            log.error("events of posted transactions are wrong", extra={"kind": kind, "transactions": count})


class HoldCheck:
    """Compares the held money of accounts whose holds have changed; each pass continues after the last one."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._after: str | None = None

    async def run(self) -> None:
        """Compare, and count the mismatches; the first pass only finds where to start."""
        async with self._engine.connect() as connection:
            if self._after is None:
                self._after = await hold_check.newest_change(connection)
                return
            mismatches, self._after = await hold_check.count_mismatches(connection, self._after)
        if mismatches:
            HOLD_MISMATCHES.inc(mismatches)
            log.error("held money differs from the active holds", extra={"accounts": mismatches})
