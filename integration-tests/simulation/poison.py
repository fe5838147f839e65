"""Poison events: each must become a dead letter and must not block others."""

import asyncio
import random
import sqlite3
from collections import Counter
from typing import Any

import orjson

from simulation.bank import ACCOUNT, TRANSACTION
from simulation.world import World

_WITHIN_SECONDS = 10.0


class Poison:
    """Writes poison events to the feed and the broker; `expected` are the dead letters of each service."""

    def __init__(self, world: World) -> None:
        self.expected: Counter[str] = Counter()
        self._world = world
        self._rng = random.Random(f"{world.seed}/poison")

    async def run(self) -> None:
        """Write the poison events of the plan, each at a random time."""
        for number in range(self._world.plan.poison):
            await asyncio.sleep(self._rng.uniform(0, _WITHIN_SECONDS))
            await self._put(f"poison-{number}")

    async def _put(self, identifier: str) -> None:
        event = _event(identifier)
        kind = self._rng.choice(["wrong data", "no event", "no text", "wrong flag"])
        if kind in ("no text", "wrong flag") and self._world.plan.transport == "feed":
            kind = "wrong data"  # a feed only contains what a service has written
        self._world.note(f"poison: {kind}")
        self.expected[ACCOUNT if kind == "wrong flag" else TRANSACTION] += 1
        if kind == "no text":
            self._world.broker.store("bank.entry.posted", f"\0 {identifier} {{".encode(), {})
        elif kind == "wrong flag":
            event["type"] = "bank.transaction.flagged"
            self._world.broker.store(event["type"], orjson.dumps(event), {})
        else:
            if kind == "no event":
                del event["specversion"]
            await self._write(event)

    async def _write(self, event: dict[str, Any]) -> None:
        number = self._world.next_reserved(ACCOUNT)
        values = (number, 1, orjson.dumps([event]), "2027-01-01 00:00:00.000000")
        while True:
            try:
                with self._world.reading(ACCOUNT) as ledger, ledger:
                    ledger.execute("INSERT INTO outbox (id, size, events, created_at) VALUES (?, ?, ?, ?)", values)
                return
            except sqlite3.OperationalError:
                await asyncio.sleep(0.01)


def _event(identifier: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": identifier,
        "source": "/simulation",
        "type": "bank.entry.posted",
        "subject": "nobody",
        "time": "2027-01-01T00:00:00Z",
        "data": {"transaction_id": "none"},
    }
