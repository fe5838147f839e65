"""The world of one seed: faults, network and processes."""

import asyncio
import hashlib
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation import sqlite
from simulation.bus import Broker
from simulation.loop import SimulatedLoop

# Probability of each fault at each opportunity, in seeds that have it.
RATES = {
    "crash": (0.0005, 0.002, 0.006),
    "lost request": (0.05, 0.2),
    "lost answer": (0.05, 0.2),
    "repeated request": (0.1, 0.4),
    "lost connection": (0.002, 0.01),
    "lost connection at commit": (0.02, 0.1),
    "conflict": (0.02, 0.1),
    "slow answer": (0.02, 0.1),
    "lost publication": (0.02, 0.2),
    "lost confirmation": (0.02, 0.2),
    "forgotten id": (0.5, 1.0),
    "broker restart": (0.02, 0.2),
    "lost tail": (0.5, 1.0),
    "dropped message": (0.1, 0.4),
    "split delivery": (0.2, 0.6),
    "lost delivery": (0.05, 0.3),
    "repeated delivery": (0.05, 0.3),
    "lost ack": (0.05, 0.3),
    "lost nak": (0.1, 0.5),
}
_SLOW_SECONDS = 1.0
_CLIENT_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed draws: half of all faults, each with its own rate, and the configuration of the bank."""

    rates: dict[str, float]
    transport: str
    account_replicas: int
    transaction_replicas: int
    clients: int
    requests: int
    poison: int


def plan(seed: int) -> Plan:
    """Draw the plan of a seed."""
    rng = random.Random(f"{seed}/plan")
    return Plan(
        rates={fault: rng.choice(rates) for fault, rates in RATES.items() if rng.random() < 0.5},
        transport=rng.choice(["nats", "feed"]),
        account_replicas=rng.choice([1, 2, 2]),
        transaction_replicas=rng.choice([1, 2]),
        clients=rng.randint(2, 4),
        requests=rng.randint(2, 4),
        poison=rng.choice([0, 1, 2]),
    )


class Process:
    """A process of a replica: its tasks and connections. Once killed it has no further effects."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.connections: set[sqlite.Connection] = set()
        self.service: Any = None
        self.feed: Any = None

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task of this process."""
        return self.world.loop.spawn(work, self)

    def kill(self) -> None:
        """Kill the process between two steps, like SIGKILL."""
        self.alive = False
        for connection in self.connections:
            connection.close()
        for task, owner in list(self.world.loop.owners.items()):
            if owner is self:
                task.cancel()


class World:
    """Everything that the processes share: time, random numbers, network, broker, and database files."""

    def __init__(self, seed: int, templates: dict[str, Path], folder: Path, *, keep_lines: bool = False) -> None:
        self.seed = seed
        self.plan = plan(seed)
        self.rng = random.Random(f"{seed}/faults")
        self.loop = SimulatedLoop(random.Random(f"{seed}/scheduler"), self._on_step)
        self.faulty = True
        self.faults: Counter[str] = Counter()
        self.lines: list[str] | None = [] if keep_lines else None
        self.processes: dict[str, Process | None] = {}
        self.folder = folder
        self.locks: dict[int, sqlite.Connection] = {}
        self.restart: Callable[[str], object] = lambda name: None
        self._hash = hashlib.blake2b(digest_size=16)
        self._ids = 0
        self._reserved: Counter[str] = Counter()
        for service, template in templates.items():
            shutil.copyfile(template, self.file(service))
        self.broker = Broker(self)

    # What happened ----------------------------------------------------------------------------------------------------

    def note(self, what: str) -> None:
        """Add an entry to the trace, which is the same in every run of a seed."""
        line = f"{self.loop.steps:6} {self.loop.time():10.6f} {what}"
        self._hash.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    @property
    def trace(self) -> str:
        """Return the hash of the trace."""
        return self._hash.hexdigest()

    # Chance -----------------------------------------------------------------------------------------------------------

    def happens(self, fault: str) -> bool:
        """Return whether a fault happens now, and count it."""
        rate = self.plan.rates.get(fault, 0.0)
        if not self.faulty or not rate or self.rng.random() >= rate:
            return False
        self.faults[fault] += 1
        self.note(f"FAULT {fault}")
        return True

    def shuffle(self, items: list[Any]) -> None:
        """Shuffle items."""
        self.rng.shuffle(items)

    def new_id(self) -> str:
        """Return an id like a UUIDv7: later ones sort after earlier ones."""
        self._ids += 1
        number = int((1_800_000_000 + self.loop.time()) * 1000) << 80 | 7 << 76 | 2 << 62 | self._ids
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    # Processes --------------------------------------------------------------------------------------------------------

    def process(self) -> Process | None:
        """Return the process of the running task; None for the world itself. Raises CancelledError if it was killed."""
        process: Process | None = self.loop.owner()
        if process is not None and not process.alive:
            raise asyncio.CancelledError
        return process

    def _on_step(self) -> None:
        if self.faulty and "crash" in self.plan.rates and self.rng.random() < self.plan.rates["crash"]:
            alive = [process for process in self.processes.values() if process is not None]
            if alive:
                process = self.rng.choice(alive)
                self.faults["crash"] += 1
                self.note(f"FAULT crash of {process.name}")
                self.processes[process.name] = None
                process.kill()
                self.loop.call_later(self.rng.uniform(0.1, 4), self.restart, process.name)

    # Network and databases --------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Return the time in seconds."""
        return self.loop.time()

    async def travel(self, what: str) -> None:
        """Wait for a random time, during which any process may be killed."""
        process = self.process()
        await asyncio.sleep(_SLOW_SECONDS * self.rng.random() if self.happens("slow answer") else 0)
        self.process()
        self.note(f"{process.name if process else 'outside'} {what}")

    async def call(self, name: str, serve: Callable[[Process], Coroutine[Any, Any, Any]]) -> Any:
        """Send a request to a replica, over a network that loses requests and responses.

        Raises OSError (including TimeoutError) without a response, and what the replica raised.
        """
        await self.travel(f"calls {name}")
        process = self.processes.get(name)
        if process is None:
            raise ConnectionRefusedError(name)
        if self.happens("lost request"):
            await asyncio.sleep(1)
            raise TimeoutError
        reply: asyncio.Future[Any] = self.loop.create_future()
        process.spawn(serve(process)).add_done_callback(lambda done: _answer(reply, process, done))
        async with asyncio.timeout(_CLIENT_TIMEOUT_SECONDS):
            result = await reply
        await self.travel(f"answer of {name}")
        if self.happens("lost answer"):
            raise ConnectionResetError(name)
        return result

    def file(self, service: str) -> Path:
        """Return the file of a service's database."""
        return self.folder / f"{service}.db"

    def open_connection(self, name: str) -> sqlite.Connection:
        """Open a connection for the replica of this name."""
        process = self.process()
        assert process is not None and process.name == name
        service = name.rpartition("-")[0]
        connection = sqlite.Connection(str(self.file(service)), _Gate(self, process))
        # As in PostgreSQL, numbers come from a sequence, before the row is visible and not in commit order.
        connection.used().create_function("reserved_id", 0, lambda: self._number(connection))
        connection.used().execute(_RESERVE)
        process.connections.add(connection)
        return connection

    def next_reserved(self, service: str) -> int:
        """Reserve the numbers of the outbox rows that a transaction will write; return the first."""
        self._reserved[service] += 1
        return self._reserved[service] * 100

    @staticmethod
    def _number(connection: sqlite.Connection) -> int:
        connection.reserved += 1
        return connection.reserved

    @contextmanager
    def reading(self, service: str) -> Iterator[sqlite3.Connection]:
        """Open a database outside of the simulation."""
        connection = sqlite3.connect(self.file(service), timeout=0)
        try:
            yield connection
        finally:
            connection.close()


def _answer(reply: asyncio.Future[Any], process: Process, done: asyncio.Task[Any]) -> None:
    """Deliver the result of a request, unless its caller gave up or its process was killed."""
    error = None if done.cancelled() else done.exception()
    if reply.done():
        return
    if done.cancelled() or not process.alive:
        reply.set_exception(ConnectionResetError(process.name))
    elif error is not None:
        reply.set_exception(error)
    else:
        reply.set_result(done.result())


_RESERVE = """
CREATE TEMP TRIGGER reserve AFTER INSERT ON main.outbox
BEGIN UPDATE outbox SET id = reserved_id() WHERE id = NEW.id; END"""


class _Gate:
    """The gate between a process and its database; a killed process never passes."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process

    async def before(self, connection: sqlite.Connection, statement: str) -> None:
        """Delay the statement; the connection may be lost, or the transaction conflict with another one."""
        world = self._world
        if statement == "BEGIN IMMEDIATE":
            connection.reserved = world.next_reserved(self._process.name.rpartition("-")[0])
        await world.travel(f"sql {statement[:40]!r}")
        if statement.startswith("PRAGMA"):
            return
        if world.happens("lost connection"):
            self._lose(connection)
        if statement not in ("BEGIN", "COMMIT", "ROLLBACK") and connection.used().in_transaction:
            if not statement.startswith("SELECT") and world.happens("conflict"):
                connection.used().rollback()
                raise sqlite.Conflict("another transaction was first")

    async def blocked(self, connection: sqlite.Connection, statement: str) -> None:
        """Wait until the lock is released; other tasks continue meanwhile."""
        del connection
        self._world.process()
        await asyncio.sleep(self._world.rng.uniform(0.005, 0.05))
        self._world.process()
        self._world.note(f"{self._process.name} waited for {statement}")

    async def after(self, connection: sqlite.Connection, statement: str) -> None:
        """Delay the response to a commit, whose result is unknown until then."""
        if statement == "COMMIT":
            await self._world.travel("committed")
            if self._world.happens("lost connection at commit"):
                self._lose(connection)

    @staticmethod
    def _lose(connection: sqlite.Connection) -> None:
        connection.close()
        raise sqlite.ConnectionLost("the connection is lost")
