"""The event consumer: freezes an account when a fraud rule asks for it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.requests import EVENT_SUBJECT, SYSTEM, LedgerRequest, RequestContext
from app.domain.commands import SetStatus
from app.models import inbox
from app.service import AccountService
from shared.messaging.consumer import Handler
from shared.messaging.positions import Positions, Range
from shared.db.database import reader, write_transaction
from shared.events import CloudEvent, TransactionFlagged
from shared.http.idempotency import request_hash
from shared.ids import utc_now

_PRODUCER = "transaction-service"


class FlagHandler(Handler):
    """Freezes an account once per flag: the event's id is the idempotency key."""

    def __init__(self, engine: AsyncEngine, service: AccountService) -> None:
        super().__init__()
        self._engine = engine
        self._reader = reader(engine)
        self._service = service

    async def consumed(self) -> Positions | None:
        async with self._reader.connect() as connection:
            return await inbox.consumed(connection, _PRODUCER)

    async def process(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
        for request in filter(None, map(_request, events)):
            await self._service.execute(request)
        # Afterwards: an account is frozen once, however often an event is processed.
        async with write_transaction(self._engine) as connection:
            await inbox.add_consumed(connection, _PRODUCER, positions)

    async def dry_run(self, events: Sequence[CloudEvent]) -> None:
        # Without its key: stable may have executed it already, and its response would only be replayed.
        requests = [replace(request, key=None) for event in events if (request := _request(event)) is not None]
        await self._service.dry_run(requests)

    async def dead_letter(self, raw: Any, reason: str) -> None:
        async with write_transaction(self._engine) as connection:
            await inbox.dead_letter(connection, raw, reason, utc_now())


def _request(event: CloudEvent) -> LedgerRequest | None:
    """Return the request that an event asks for; None if it asks for nothing."""
    if event.type != "bank.transaction.flagged":
        return None
    flag = TransactionFlagged.model_validate(event.data)
    if flag.action != "freeze":
        return None
    return LedgerRequest(
        SYSTEM,
        SetStatus(flag.account_id, "frozen"),
        200,
        RequestContext(f"/events/{event.type}", event.requestid, event.traceparent),
        (EVENT_SUBJECT, event.id),
        request_hash(event.type, event.data),
    )
