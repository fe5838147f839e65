"""Consumed events become history once, and what the fraud rules find in it becomes flags once."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import fraud
from app.domain.projection import Projection, parse, project
from app.fraud import Entry, Finding, Thresholds
from app.models import inbox, outbox
from app.prometheus import FLAGS
from app.storage import assessment, history
from shared.observability import tracing
from shared.messaging.consumer import Move
from shared.db.database import is_retryable, rehearsal, write_all, write_transaction
from shared.events import CloudEvent, Event, EventData, new_event
from shared.ids import utc_now

log = logging.getLogger(__name__)

FEED = "account-service"
_TRIES = 5


class EventIngestion:
    """Writes events to the history, and the findings of the fraud rules to the outbox."""

    def __init__(
        self,
        engine: AsyncEngine,
        thresholds: Thresholds,
        committed: Callable[[Sequence[Event]], None] = lambda events: None,
    ) -> None:
        self._engine = engine
        self._thresholds = thresholds
        self._committed = committed

    async def position(self) -> int:
        """Return how far account-service's feed has been consumed."""
        async with self._engine.connect() as connection:
            return await inbox.position(connection, FEED)

    async def apply(self, events: Sequence[CloudEvent], move: Move | None) -> set[str]:
        """Add events to the history and tell what the fraud rules find; return the ids of those that were new.

        Raises ValueError (pydantic.ValidationError too) when one of them is not what its type promises.
        """
        data = {event.id: parse(event) for event in events}
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._apply(events, data, move)
            except DBAPIError as error:
                if attempt == _TRIES or not is_retryable(error):
                    raise
                log.info("%d events conflict with another replica, trying again", len(events))
        raise AssertionError("unreachable")

    async def _apply(
        self, events: Sequence[CloudEvent], data: Mapping[str, EventData | None], move: Move | None
    ) -> set[str]:
        now = utc_now()
        async with write_transaction(self._engine) as connection:
            new = await inbox.claim(connection, data, now)
            items = [item for event_id, item in data.items() if event_id in new and item is not None]
            findings, flagged = await self._record(connection, events, items, now)
            if move is not None:
                await inbox.move(connection, FEED, move)
        self._committed(flagged)
        for finding in findings:
            FLAGS.labels(finding.rule).inc()
        return new

    async def rehearse(self, events: Sequence[CloudEvent]) -> None:
        """Do with events all that `apply` does with new ones, and take it back. Raises what `apply` raises."""
        now = utc_now()
        data = {event.id: parse(event) for event in events}
        async with rehearsal(self._engine) as connection:
            await inbox.claim(connection, data, now)
            await self._record(connection, events, [item for item in data.values() if item is not None], now)

    async def _record(
        self, connection: AsyncConnection, events: Sequence[CloudEvent], items: Sequence[EventData], now: datetime
    ) -> tuple[list[Finding], list[Event]]:
        """Write what events carry, and what the rules find in it for the first time; return that and its events."""
        findings = await self._add(connection, project(items))
        unheard = await history.add_flags(connection, findings, now)
        findings = [finding for finding in findings if finding.event_id in unheard]
        flagged = _flag_events(findings, events, now)
        await write_all(connection, [outbox.write(flagged, now)])
        return findings, flagged

    async def _add(self, connection: AsyncConnection, projection: Projection) -> list[Finding]:
        """Write the projection and return what the rules find now, whether or not it was found before."""
        new_accounts = await history.add(connection, projection)
        posted = projection.posted
        if not posted and not new_accounts:
            return []
        await assessment.assess_alone(connection)
        # Entries that came before their account have not been assessed yet.
        found = await assessment.all_entries(connection, new_accounts)
        if posted:
            affected = {entry["account_id"] for entry in posted} - new_accounts
            found += await self._around(connection, affected, [entry["created_at"] for entry in posted])
        of_account: dict[str, list[Entry]] = defaultdict(list)
        for entry in found:
            of_account[entry.account_id].append(entry)
        with tracing.span("fraud rules"):
            return [finding for group in of_account.values() for finding in fraud.assess(group, self._thresholds)]

    async def _around(
        self, connection: AsyncConnection, account_ids: set[str], moments: Sequence[datetime]
    ) -> list[Entry]:
        """Return the entries that those of the given moments may turn into findings, or be turned into one by."""
        thresholds = self._thresholds
        first, last = min(moments), max(moments) + thresholds.window
        recent = await assessment.entries_between(connection, account_ids, first, last)
        stretches = {fraud.velocity_occurrence(entry.created_at, thresholds) for entry in recent if entry.is_payment}
        flagged = await assessment.flagged_stretches(connection, {entry.account_id for entry in recent}, stretches)
        wanted = fraud.look_back(recent, flagged, thresholds)
        return recent + await assessment.entries_before(connection, wanted, first, thresholds)

    async def bury(self, raw: Any, reason: str) -> None:
        """Keep a poison event for operators."""
        async with write_transaction(self._engine) as connection:
            await inbox.bury(connection, raw, reason, utc_now())

    async def forget_history(self) -> None:
        """Clear what can be rebuilt from the feed: the history, and which events made it."""
        async with write_transaction(self._engine) as connection:
            await history.clear(connection)


def _flag_events(findings: Iterable[Finding], events: Iterable[CloudEvent], now: datetime) -> list[Event]:
    """Return the events that tell the findings, each in the trace of the transaction it is about."""
    causes = {event.data["transaction_id"]: event for event in events if event.type == "bank.entry.posted"}
    flagged = []
    for finding in findings:
        cause = causes.get(finding.transaction_id)
        flagged.append(
            new_event(
                source="transaction-service",
                type_="bank.transaction.flagged",
                subject=finding.account_id,
                time=now,
                data={
                    "transaction_id": finding.transaction_id,
                    "account_id": finding.account_id,
                    "rule": finding.rule,
                    "score": finding.score,
                    "action": finding.action,
                },
                event_id=finding.event_id,
                traceparent=cause.traceparent if cause else None,
                request_id=cause.requestid if cause else None,
            )
        )
    return flagged
