"""Writes each consumed event to the history once, and each finding of the fraud rules to the flags once."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import fraud
from app.application import webhook_events
from app.application.flag_events import flag_event
from app.domain.projection import Projection, parse, project
from app.domain.entry_check import ENTRY_TYPES, entry_keys, has_entry, with_other_keys
from app.fraud import Entry, Finding, Thresholds
from app.models import inbox, outbox
from app.prometheus import ENTRIES, FLAGS
from app.storage import fraud_entries, history
from shared.observability import tracing
from shared.messaging.positions import Positions, Range
from shared.db.database import is_retryable, dry_run_transaction, reader, write_all, write_transaction
from shared.events import CloudEvent, Event, EventData, TransactionFlagged
from shared.ids import new_id, utc_now

log = logging.getLogger(__name__)

PRODUCER = "account-service"
_TRIES = 5
# A counter at 0 shows that the metric exists.
for _type in ENTRY_TYPES:
    ENTRIES.labels(_type)


class EventIngestion:
    """Writes events to the history, and the findings of the fraud rules to the outbox."""

    def __init__(
        self,
        engine: AsyncEngine,
        thresholds: Thresholds,
        committed: Callable[[Sequence[Event]], None] = lambda events: None,
    ) -> None:
        self._engine = engine
        self._reader = reader(engine)
        self._thresholds = thresholds
        self._committed = committed

    async def consumed(self) -> Positions | None:
        """Return the positions of account-service's events in the history; see `Handler.consumed`."""
        async with self._reader.connect() as connection:
            return await inbox.consumed(connection, PRODUCER)

    async def apply(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
        """Add events to the history and publish new findings; known events have no effect.

        Raises ValueError (or pydantic.ValidationError) if an event is invalid.
        """
        items = _parsed(events)
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._apply(events, items, positions)
            except DBAPIError as error:
                if attempt == _TRIES or not is_retryable(error):
                    raise
                log.info("%d events conflict with another replica, retrying", len(events))
        raise AssertionError("unreachable")

    async def _apply(
        self, events: Sequence[CloudEvent], items: Sequence[EventData], positions: Sequence[Range]
    ) -> None:
        async with write_transaction(self._engine) as connection:
            findings, flagged = await self._record(connection, events, items, utc_now())
            await inbox.add_consumed(connection, PRODUCER, positions)
        self._committed(flagged)
        for finding in findings:
            FLAGS.labels(finding.rule).inc()

    async def dry_run(self, events: Sequence[CloudEvent]) -> None:
        """Process events like `apply`, and again under other keys, count their entries, and roll back.

        Raises what `apply` raises.
        """
        now = utc_now()
        # Copies under other keys, because stable may already have written the entries of these events.
        copies = [with_other_keys(event, new_id(), new_id()) for event in events if event.type in ENTRY_TYPES]
        async with dry_run_transaction(self._engine) as connection:
            for part in (events, copies):
                await self._record(connection, part, _parsed(part), now)
            stored = await history.stored_entries(connection, entry_keys(copies))
        for event in copies:
            ENTRIES.labels(event.type).inc(has_entry(event, stored))

    async def _record(
        self, connection: AsyncConnection, events: Sequence[CloudEvent], items: Sequence[EventData], now: datetime
    ) -> tuple[list[Finding], list[Event]]:
        """Write the data of events, those for webhooks and new findings; return the findings and their events."""
        findings = await self._add(connection, project(items))
        new_ids = await history.add_flags(connection, findings, now)
        findings = [finding for finding in findings if finding.event_id in new_ids]
        flagged = _flag_events(findings, events, now)
        await write_all(connection, [outbox.write(flagged, now)])
        await webhook_events.store(connection, events, now)
        return findings, flagged

    async def _add(self, connection: AsyncConnection, projection: Projection) -> list[Finding]:
        """Write the projection and return all findings of the rules, including known ones."""
        new_accounts = await history.add(connection, projection)
        posted = projection.posted
        if not posted and not new_accounts:
            return []
        await fraud_entries.lock_evaluation(connection)
        # Entries that arrived before their account have not been evaluated yet.
        related = await fraud_entries.all_entries(connection, new_accounts)
        if posted:
            affected = {entry["account_id"] for entry in posted} - new_accounts
            related += await self._related_entries(connection, affected, [entry["created_at"] for entry in posted])
        by_account: dict[str, list[Entry]] = defaultdict(list)
        for entry in related:
            by_account[entry.account_id].append(entry)
        with tracing.span("fraud rules"):
            return [finding for group in by_account.values() for finding in fraud.evaluate(group, self._thresholds)]

    async def _related_entries(
        self, connection: AsyncConnection, account_ids: set[str], moments: Sequence[datetime]
    ) -> list[Entry]:
        """Return the entries that the rules may combine with those posted at the given times."""
        thresholds = self._thresholds
        first, last = min(moments), max(moments) + thresholds.window
        recent = await fraud_entries.entries_between(connection, account_ids, first, last)
        windows = {fraud.velocity_window_start(entry.created_at, thresholds) for entry in recent if entry.is_payment}
        flagged = await fraud_entries.flagged_windows(connection, {entry.account_id for entry in recent}, windows)
        lookback = fraud.lookback_window(recent, flagged, thresholds)
        return recent + await fraud_entries.entries_before(connection, lookback, first, thresholds)

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Store an invalid event for operators."""
        async with write_transaction(self._engine) as connection:
            await inbox.dead_letter(connection, raw, reason, utc_now())

    async def clear_history(self, *, keep_refusals: bool = False) -> None:
        """Delete the history and the consumed positions; refusals are kept if they cannot be rebuilt."""
        async with write_transaction(self._engine) as connection:
            await history.clear(connection, keep_refusals=keep_refusals)


def _parsed(events: Iterable[CloudEvent]) -> list[EventData]:
    """Return the data of the events that have an effect on the history."""
    return [item for item in map(parse, events) if item is not None]


def _flag_events(findings: Iterable[Finding], events: Iterable[CloudEvent], now: datetime) -> list[Event]:
    """Return the events of the findings, each in the trace of its transaction."""
    causes = {event.data["transaction_id"]: event for event in events if event.type == "bank.entry.posted"}
    flagged = []
    for finding in findings:
        data = TransactionFlagged(
            transaction_id=finding.transaction_id,
            account_id=finding.account_id,
            rule=finding.rule,
            score=finding.score,
            action=finding.action,
        )
        flagged.append(flag_event(finding.event_id, data, now, causes.get(finding.transaction_id)))
    return flagged
