"""Stores the events that webhooks may want, in the database transaction that adds them to the history."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain import webhooks
from app.storage import webhooks as storage
from shared.events import CloudEvent


async def store(connection: AsyncConnection, events: Sequence[CloudEvent], now: datetime) -> None:
    """Store events of accounts with a webhook; events of a snapshot have no position and are not delivered."""
    accounts = {event.position: webhooks.account_of(event) for event in events if event.position is not None}
    account_ids = {account_id for account_id in accounts.values() if account_id is not None}
    if not account_ids:
        return
    wanted = await storage.wanted(connection, account_ids)
    rows = [
        {
            "position": event.position,
            "account_id": accounts[event.position],
            "type": event.type,
            "id": event.id,
            "content": webhooks.body_of(event),
            "created_at": now,
        }
        for event in events
        if event.position is not None and accounts[event.position] in wanted
    ]
    await storage.add_events(connection, rows)
