"""What account-service does with events: it freezes accounts that a fraud rule says to freeze."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from app.book import SetStatus
from app.service import AccountService
from app.work import EVENT_SUBJECT, SYSTEM, Trace, Work
from shared.messaging.consumer import Handler, Move
from shared.events import CloudEvent, TransactionFlagged
from shared.http.idempotency import request_hash

_FEED = "transaction-service"


class FlagHandler(Handler):
    """Freezes once per finding: the event's id is the idempotency key, written with the effect."""

    def __init__(self, service: AccountService) -> None:
        self._service = service

    async def position(self) -> int:
        return await self._service.position(_FEED)

    async def process(self, events: Sequence[CloudEvent], move: Move | None) -> set[str]:
        new = {event.id for event in events if not await self._freeze(event)}
        if move is not None:
            await self._service.move(_FEED, move)
        return new

    async def rehearse(self, events: Sequence[CloudEvent]) -> None:
        # Without its key: stable may have carried it out before, and there would be nothing to rehearse.
        works = [replace(work, key=None) for event in events if (work := _work(event)) is not None]
        await self._service.rehearse(works)

    async def _freeze(self, event: CloudEvent) -> bool:
        """Carry out the event's action; tell whether that had been done before."""
        work = _work(event)
        return work is not None and (await self._service.execute(work)).replayed

    async def bury(self, raw: Any, reason: str) -> None:
        await self._service.bury(raw, reason)


def _work(event: CloudEvent) -> Work | None:
    """Return what an event asks for; None if nothing."""
    if event.type != "bank.transaction.flagged":
        return None
    flag = TransactionFlagged.model_validate(event.data)
    if flag.action != "freeze":
        return None
    return Work(
        SYSTEM,
        SetStatus(flag.account_id, "frozen"),
        200,
        Trace(f"/events/{event.type}", event.requestid, event.traceparent),
        (EVENT_SUBJECT, event.id),
        request_hash(event.type, event.data),
    )
