"""Delivers events to webhooks: in order, at least once, with retries."""

import asyncio
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain import webhooks
from app.models import outbox
from app.prometheus import WEBHOOK_DELIVERIES, WEBHOOK_OLDEST_PENDING, WEBHOOKS
from app.storage import webhooks as storage
from app.webhook_client import ATTEMPT_SECONDS, Outcome, Session, WebhookClient
from shared.db.database import reader, write_all, write_transaction
from shared.events import Event, WebhookDisabled, new_event
from shared.ids import new_id, utc_now
from shared.runtime.tasks import cancel_all, shield

log = logging.getLogger(__name__)

_MAX_CONCURRENT = 32
# Of one owner, whose receivers may all be slow without failing.
_MAX_PER_OWNER = 4
# Failing receivers, which may hang until the timeout, leave the other half to healthy ones: of all, and of each owner.
_MAX_FAILING = 16
_MAX_FAILING_PER_OWNER = 2
_BATCH = 50
# A claim starts no attempt later than this, and outlasts the last one.
_RUN_SECONDS = 30.0
_CLAIM_SECONDS = _RUN_SECONDS + ATTEMPT_SECONDS + 15
# A counter at 0 shows that the metric exists.
for _result in ("delivered", "failed"):
    WEBHOOK_DELIVERIES.labels(_result)


class WebhookDelivery:
    """Claims webhooks with events to deliver, and delivers each in a task of its own; replicas share the work.

    A webhook has one attempt at a time, and the next event follows when the one before was accepted. So the events of
    an account arrive in order, and a receiver that fails delays only itself.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        client: WebhookClient,
        key: str,
        retention: timedelta,
        committed: Callable[[Sequence[Event]], None] = lambda events: None,
    ) -> None:
        self._engine = engine
        self._reader = reader(engine)
        self._client = client
        self._key = key
        self._retention = retention
        self._committed = committed
        self._running: dict[asyncio.Task[None], Row[Any]] = {}

    async def dispatch(self) -> None:
        """Start the delivery of webhooks that are due, as many as may run at the same time."""
        if len(self._running) >= _MAX_CONCURRENT:
            return
        now, by_owner = utc_now(), Counter(webhook.owner for webhook in self._running.values())
        full = [owner for owner, number in by_owner.items() if number >= _MAX_PER_OWNER]
        async with self._reader.connect() as connection:
            due = await storage.due(connection, now, _MAX_CONCURRENT, _MAX_PER_OWNER, full)
        if not (chosen := self._choose(due, by_owner)):
            return
        async with write_transaction(self._engine) as connection:
            until = now + timedelta(seconds=_CLAIM_SECONDS)
            claimed = await storage.claim(connection, chosen, now, until)
        for webhook in claimed:
            task = asyncio.create_task(self._deliver_claimed(webhook, now), name=f"webhook-{webhook.id}")
            self._running[task] = webhook
            task.add_done_callback(self._running.pop)

    def _choose(self, due: Iterable[Row[str, str, int]], by_owner: Counter[str]) -> list[str]:
        """Return the ids of those that are due for which there is room; `by_owner` counts the running deliveries."""
        chosen: list[str] = []
        failing = Counter(webhook.owner for webhook in self._running.values() if webhook.failures)
        for id_, owner, failures in due:
            if len(self._running) + len(chosen) >= _MAX_CONCURRENT:
                break
            if by_owner[owner] >= _MAX_PER_OWNER:
                continue
            if failures:
                if failing.total() >= _MAX_FAILING or failing[owner] >= _MAX_FAILING_PER_OWNER:
                    continue
                failing[owner] += 1
            by_owner[owner] += 1
            chosen.append(id_)
        return chosen

    async def drain(self) -> None:
        """Wait for the running deliveries."""
        await asyncio.gather(*self._running)

    async def close(self) -> None:
        """Interrupt the running deliveries; their events are delivered again."""
        await cancel_all(self._running)
        self._client.close()

    async def observe(self) -> None:
        """Export the age of the oldest event that a healthy webhook waits for, and the number of webhooks by state."""
        async with self._reader.connect() as connection:
            oldest = await storage.oldest_pending(connection)
            states = await storage.count_states(connection)
        WEBHOOK_OLDEST_PENDING.set((utc_now() - oldest).total_seconds() if oldest else 0)
        for state, number in states.items():
            WEBHOOKS.labels(state).set(number)

    async def prune(self) -> None:
        """Delete old events and attempts."""
        async with write_transaction(self._engine) as connection:
            await storage.prune(connection, utc_now() - self._retention)

    async def _deliver_claimed(self, webhook: Row[Any], now: datetime) -> None:
        try:
            async with self._client.session(webhook.url) as session:
                await self._deliver(webhook, session, now + timedelta(seconds=_RUN_SECONDS))
        except Exception as error:  # pylint: disable=broad-exception-caught  # the next dispatch tries again
            log.warning("delivery of webhook %s failed: %r", webhook.id, error)
        finally:
            await shield(self._release(webhook))

    async def _release(self, webhook: Row[Any]) -> None:
        async with write_transaction(self._engine) as connection:
            await storage.release(connection, webhook, utc_now())

    async def _deliver(self, webhook: Row[Any], session: Session, end: datetime) -> None:
        """Deliver events until none is left, one fails, the webhook is changed or the time is up."""
        types = json.loads(webhook.types) if webhook.types is not None else None
        position = webhook.position
        failures = webhook.failures
        while True:
            async with self._reader.connect() as connection:
                last = await storage.gapless_end(connection)
                events = await storage.next_events(connection, webhook, (position, last), types, _BATCH)
            for event in events:
                if utc_now() >= end:
                    return
                outcome = await self._attempt(webhook, session, event)
                if not await shield(self._record(webhook, event, (position, failures), outcome)) or outcome.error:
                    return
                position, failures = event.position, 0
            if not events:
                # Events of other types and accounts are not to be looked at again.
                async with write_transaction(self._engine) as connection:
                    await storage.update_claimed(connection, webhook, position, position=max(position, last))
                return

    async def _attempt(self, webhook: Row[Any], session: Session, event: Row[Any]) -> Outcome:
        now = utc_now()
        id_, timestamp = webhooks.message_id_of(webhook.id, event.id), int(now.timestamp())
        versions = webhooks.signing_versions(webhook.secret_version, webhook.secret_rotated_at, now)
        secrets = [webhooks.secret(self._key, webhook.id, version) for version in versions]
        headers = {
            "Content-Type": "application/cloudevents+json",
            "User-Agent": "bank-webhooks/1",
            "webhook-id": id_,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": webhooks.signature(secrets, id_, timestamp, event.content),
        }
        return await session.post(headers, event.content)

    async def _record(self, webhook: Row[Any], event: Row[Any], before: tuple[int, int], outcome: Outcome) -> bool:
        """Record an attempt; return False if the webhook was changed meanwhile. `before`: position and failures."""
        now = utc_now()
        position, failures = before
        events: list[Event] = []
        changes: dict[str, Any] = {"next_attempt_at": now, "failures": 0, "failing_since": None}
        if outcome.error is None:
            changes["position"] = event.position
        else:
            failing_since = webhook.failing_since if failures else now
            reason = webhooks.disabled_reason(outcome.status, outcome.error, failing_since, now)
            delay = webhooks.retry_delay(failures + 1, random.random())  # nosec B311  # only spreads the load
            changes = {
                "next_attempt_at": now + delay,
                "failures": failures + 1,
                "failing_since": failing_since,
                "disabled_reason": reason,
            }
            if reason is not None:
                events = [_disabled_event(webhook, reason, failing_since, now)]
        async with write_transaction(self._engine) as connection:
            if not await storage.update_claimed(connection, webhook, position, **changes):
                return False
            await storage.log_delivery(connection, _delivery(webhook, event, failures + 1, outcome, now))
            await write_all(connection, [outbox.write(events, now)])
        self._committed(events)
        WEBHOOK_DELIVERIES.labels("failed" if outcome.error else "delivered").inc()
        if events:
            log.warning("webhook %s disabled", webhook.id)
        return True


def _delivery(webhook: Row[Any], event: Row[Any], attempt: int, outcome: Outcome, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id(),
        "webhook_id": webhook.id,
        "position": event.position,
        "message_id": webhooks.message_id_of(webhook.id, event.id),
        "type": event.type,
        "attempt": attempt,
        "status": outcome.status,
        "error": outcome.error,
        "created_at": now,
    }


def _disabled_event(webhook: Row[Any], reason: str, failing_since: datetime, now: datetime) -> Event:
    data = WebhookDisabled(
        webhook_id=webhook.id,
        owner=webhook.owner,
        account_id=webhook.account_id,
        reason=reason,
        failing_since=failing_since,
    )
    return new_event(
        source="transaction-service",
        type_="bank.webhook.disabled",
        subject=webhook.id,
        time=now,
        data=data.model_dump(mode="json"),
    )
