"""`python -m app.rebuild`: rebuild the history from account-service's feed, and from its ledger what was pruned there.

Refused transactions are only in the feed; those of pruned events are kept. Safe while the service runs: each event is
added once. Flags are kept; reconciliation reports accounts with missing entries until the rebuild has finished. If it
is interrupted, the service continues where it has stopped.
"""

import asyncio
import sys
from collections.abc import Callable

import httpx
from sqlalchemy.exc import SQLAlchemyError

from app.application.ingestion import EventIngestion
from app.consumer import HistoryHandler
from app.settings import TransactionSettings
from shared.messaging.consumer import Consumer
from shared.db.database import create_engine
from shared.messaging.feed import MAX_LIMIT
from shared.runtime.settings import load_or_exit
from shared.messaging.transport import EventsPruned, FeedSource

# Enough to delete a large history.
_STATEMENT_SECONDS = 6 * 3600


class RebuildError(Exception):
    """The rebuild failed; the message is for the operator."""


async def rebuild(ingestion: EventIngestion, source: FeedSource, report: Callable[[str], object]) -> int:
    """Clear the history and read the feed, and the ledger if needed, to its head; return the number of events.

    Raises RebuildError; the history is not cleared if the first request to the feed fails.
    """
    consumer = Consumer(source, HistoryHandler(ingestion))
    events = 0
    try:
        is_pruned = await _is_pruned(source)
        await ingestion.clear_history(keep_refusals=is_pruned)
        while True:
            count = await consumer.step()
            events += count
            report(f"{events} events so far")
            # A page that is not full ends at the head; a busy bank's feed is never empty.
            if count < source.limit:
                break
    except httpx.HTTPStatusError as error:
        raise RebuildError(
            f"account-service's feed returned {error.response.status_code}{_progress(events)}"
        ) from error
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise RebuildError(f"account-service's feed is unavailable: {error!r}{_progress(events)}") from error
    except (SQLAlchemyError, OSError) as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise RebuildError(f"database error: {cause}{_progress(events)}") from error
    return events


async def _is_pruned(source: FeedSource) -> bool:
    try:
        await source.receive(0)
    except EventsPruned:
        return True
    return False


def _progress(events: int) -> str:
    return f", after {events} events; run it again" if events else ""


async def _run(settings: TransactionSettings) -> int:
    token = settings.service_token.get_secret_value()
    engine = create_engine(settings.database_url, pool_size=4, name="rebuild", statement_seconds=_STATEMENT_SECONDS)
    source = FeedSource(settings.account_service_url, token, limit=MAX_LIMIT, wait_seconds=0)
    try:
        ingestion = EventIngestion(engine, settings.thresholds)
        return await rebuild(ingestion, source, lambda line: print(f"rebuild: {line}", flush=True))
    finally:
        await source.close()
        await engine.dispose()


def main() -> int:
    """Rebuild the history and return the exit code."""
    settings = load_or_exit(TransactionSettings)
    try:
        events = asyncio.run(_run(settings))
    except RebuildError as error:
        print(f"rebuild: {error}", file=sys.stderr)
        return 1
    print(f"rebuild: done, {events} events")
    return 0


if __name__ == "__main__":
    sys.exit(main())
