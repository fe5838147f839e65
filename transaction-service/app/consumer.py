"""The event handler: passes consumed events to the ingestion."""

from collections.abc import Sequence
from typing import Any

from app.application.ingestion import EventIngestion
from shared.messaging.consumer import Handler
from shared.events import CloudEvent
from shared.messaging.positions import Positions, Range


class HistoryHandler(Handler):
    """Adds each event to the history once, in any order."""

    def __init__(self, ingestion: EventIngestion) -> None:
        super().__init__()
        self._ingestion = ingestion

    async def consumed(self) -> Positions | None:
        return await self._ingestion.consumed()

    async def process(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
        await self._ingestion.apply(events, positions)

    async def dry_run(self, events: Sequence[CloudEvent]) -> None:
        await self._ingestion.dry_run(events)

    async def dead_letter(self, raw: Any, reason: str) -> None:
        await self._ingestion.dead_letter(raw, reason)
