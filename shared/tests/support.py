"""Helpers for the tests of shared."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.testing.ports import free_port
from shared.testing.timing import BUSY_SECONDS, eventually
from shared.db.database import write_all, write_transaction
from shared.events import CloudEvent, Event, new_event
from shared.ids import utc_now
from shared.messaging.consumer import Handler
from shared.messaging.inbox import Inbox
from shared.messaging.outbox import Outbox
from shared.messaging.positions import Positions, Range
from shared.prometheus.registry import REGISTRY

metadata = MetaData()
outbox = Outbox(metadata)
inbox = Inbox(metadata)


class InMemoryHandler(Handler):
    """A handler that remembers ids of processed events and dead letters; subclasses decide which events fail."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.dead_letters: list[Any] = []
        self.positions = Positions()

    async def consumed(self) -> Positions:
        """Return the positions."""
        return self.positions

    async def process(self, events: Sequence[CloudEvent], positions: Sequence[Range]) -> None:
        """Record events that are new, and the positions."""
        self.seen += [item.id for item in events if item.id not in self.seen]
        self.positions = self.positions.add(positions)

    async def dead_letter(self, raw: Any, reason: str) -> None:
        """Store the dead letter."""
        self.dead_letters.append(raw)


def event(name: str, type_: str = "bank.entry.posted", **data: Any) -> Event:
    """Return an event whose id is `name`."""
    return new_event(source="test", type_=type_, subject="account", time=utc_now(), data=data, event_id=name)


def events(count: int, start: int = 1) -> list[Event]:
    """Return events with the ids e1, e2, …"""
    return [event(f"e{number}") for number in range(start, start + count)]


def names(found: list[Event]) -> list[str]:
    """Return the ids of events."""
    return [item["id"] for item in found]


async def append(engine: AsyncEngine, *items: Event) -> None:
    """Commit one append to the outbox."""
    async with write_transaction(engine) as connection:
        await write_all(connection, [outbox.write(items, utc_now())])


async def sequence(engine: AsyncEngine, limit: int = 1000) -> int:
    """Assign positions to committed rows."""
    async with write_transaction(engine) as connection:
        return await outbox.sequence(connection, limit)


async def read(engine: AsyncEngine, after: int = 0, limit: int = 10_000) -> list[tuple[int, Event]]:
    """Read positions and events."""
    async with engine.connect() as connection:
        return await outbox.read(connection, after, limit)


def metric(name: str, **labels: str) -> float:
    """Return the value of a metric, 0 if it has never been set."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def served(app: Any, port: int = 0) -> AsyncIterator[str]:
    """Serve an ASGI application over TCP and yield its URL."""
    port = port or free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), "uvicorn did not start"
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


class NatsServer:
    """A nats-server with JetStream and its own store; it can be stopped and restarted."""

    program = shutil.which("nats-server")

    def __init__(self, store: Path, configuration: str = "") -> None:
        self._store = store
        self._configuration = store.with_suffix(".conf")
        self._configuration.write_text(configuration, encoding="utf-8")
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        assert self.program is not None
        command = [self.program, "-c", str(self._configuration), "-js", "-sd", str(self._store)]
        command += ["-a", "127.0.0.1", "-p", str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await eventually(self._accepts_connections)

    async def _accepts_connections(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    async def stop(self) -> None:
        """Stop the server with SIGTERM; its data is kept."""
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, BUSY_SECONDS)
            self._process = None

    def url_of(self, user: str, password: str) -> str:
        """Return the URL with the credentials of a user."""
        return self.url.replace("://", f"://{user}:{password}@")

    def lose_disk(self) -> None:
        """Delete the data of the stopped server."""
        shutil.rmtree(self._store)
