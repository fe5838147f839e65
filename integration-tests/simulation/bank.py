"""Replicas of both services in a simulated world, wired as `shared.runtime.process` does."""

import asyncio
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import urlencode

import httpx
from sqlalchemy import text
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.requests import Request

import shared.messaging.feed
import shared.ids
import shared.messaging.recovery
import shared.messaging.relay
import shared.messaging.transport
from shared.testing import lab_keys
from shared.messaging.consumer import Consumer
from shared.db.database import create_engine, ping
from shared.messaging.recovery import Recovery
from shared.messaging.relay import Relay
from shared.messaging.streams import batch_subject
from shared.messaging.transport import FeedSource, NatsConnection, NatsSource
from simulation import sqlite
from simulation.services import create_database, load
from simulation.world import Process, World

ACCOUNT, TRANSACTION = "account-service", "transaction-service"
SERVICES = (ACCOUNT, TRANSACTION)
MAX_REPLICAS = 2
# Amount from which the fraud rules flag and freeze.
FREEZE, REVIEW = 500, 300
# Longer polling intervals than in production: an idle bank costs as much to simulate as a busy one.
_PAUSES = {
    "shared.messaging.relay._IDLE_SECONDS": 3.0,
    "shared.messaging.relay._RETRY_SECONDS": 3.0,
    "shared.messaging.relay._MEASURE_SECONDS": 60.0,
    "shared.messaging.feed._POLL_SECONDS": 1.0,
    # Longer than the simulated AckWait.
    "shared.messaging.recovery.OVERDUE_SECONDS": 6.0,
}
_RECOVERY_SECONDS = 3.0
_TOKEN = "a token of the simulation"  # nosec B105  # nothing listens
_BEGIN = datetime(2027, 1, 1, tzinfo=UTC)


class Lab:
    """What all seeds of this process share: settings, empty databases, and engines with compiled statements."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keys = lab_keys.ensure(folder / "keys")
        common = {"auth_jwks": str(keys.jwks), "service_token": _TOKEN, "database_url": "sqlite+aiosqlite:///"}
        self.account = load(ACCOUNT).settings.AccountSettings(**common, access_log=False)
        self.transaction = load(TRANSACTION).settings.TransactionSettings(
            **common,
            account_service_url="http://nowhere",
            fraud_freeze_amount=FREEZE,
            fraud_review_amount=REVIEW,
            fraud_velocity_count=4,
            fraud_pass_through_amount=200,
        )
        self.templates = {service: folder / f"{service}.template" for service in SERVICES}
        self.engines: dict[str, AsyncEngine] = {}
        for service, file in self.templates.items():
            create_database(service, file)
            for number in range(MAX_REPLICAS):
                self.engines[f"{service}-{number}"] = create_engine(f"sqlite+inline://{service}-{number}/")
        asyncio.run(self._warm_up())

    async def _warm_up(self) -> None:
        # The first connection of an engine executes more statements than later ones.
        for name, engine in self.engines.items():
            sqlite.OPENERS[name] = lambda name=name: sqlite.Connection(str(self.templates[name.rpartition("-")[0]]))
            await ping(engine)
            await engine.dispose()


@cache
def lab() -> Lab:
    """Return the lab of this process."""
    logging.disable(logging.CRITICAL)
    # A process that is killed returns no connections.
    warnings.filterwarnings("ignore", "The garbage collector is trying to clean up", SAWarning)
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=scratch()))
    # Also at the end of a pool worker, which does not run atexit handlers.
    Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=1)
    return Lab(folder)


def scratch() -> Path | None:
    """Return a folder on a memory file system if there is one."""
    memory = Path("/dev/shm")  # nosec B108  # only where to make a folder of one's own
    return memory if memory.is_dir() else None


class Bank:
    """Starts and restarts the replicas of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.accounts = [f"{ACCOUNT}-{number}" for number in range(world.plan.account_replicas)]
        self.transactions = [f"{TRANSACTION}-{number}" for number in range(world.plan.transaction_replicas)]
        world.restart = self.start
        for name in (*self.accounts, *self.transactions):
            sqlite.OPENERS[name] = lambda name=name: world.open_connection(name)
            self.start(name)

    def start(self, name: str) -> None:
        """Start a replica; its only state is its database."""
        world, service = self.world, name.rpartition("-")[0]
        process = world.processes[name] = Process(world, name)
        world.note(f"{name} starts")
        engine = lab().engines[name]
        engine.sync_engine.dispose(close=False)
        bus = NatsConnection("nats://broker") if world.plan.transport == "nats" else None
        outbox = load(service).models.outbox
        relay = Relay(engine, outbox, bus, service)
        if service == ACCOUNT:
            process.service = load(ACCOUNT).service.AccountService(engine, lab().account, relay.notify_commit)
            handler = load(ACCOUNT).consumer.FlagHandler(engine, process.service)
            single_subject, producer = "bank.transaction.flagged", TRANSACTION
        else:
            thresholds = lab().transaction.thresholds
            ingestion = load(TRANSACTION).consumer.EventIngestion(engine, thresholds, relay.notify_commit)
            handler = load(TRANSACTION).consumer.HistoryHandler(ingestion)
            single_subject, producer = "bank.>", ACCOUNT
        process.feed = shared.messaging.feed.route(engine, outbox, _TOKEN).endpoint
        process.spawn(relay.run())
        feed = FeedSource(f"feed+http://{producer}", _TOKEN, wait_seconds=3)
        if bus is None:
            process.spawn(Consumer(feed, handler).run())
            return
        durables = {f"{service}-batches": batch_subject(producer), service: single_subject}
        consumers = [Consumer(NatsSource(bus, durable, subject), handler) for durable, subject in durables.items()]
        for consumer in consumers:
            process.spawn(consumer.run())
        process.spawn(_recover_periodically(Recovery(feed, handler, consumers[0])))


async def _recover_periodically(recovery: Recovery) -> None:
    while True:
        with suppress(Exception):  # as in shared.runtime.process
            await recovery.run()
        await asyncio.sleep(_RECOVERY_SECONDS)


class _FeedClient:
    """Stands in for httpx.AsyncClient in FeedSource: requests the real feed from a replica of the producer."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def get(self, url: str, params: Mapping[str, Any]) -> Any:
        """Request the feed from a replica."""
        service = url.removeprefix("http://").partition("/")[0]
        scope = {
            "type": "http",
            "method": "GET",
            "query_string": urlencode(params).encode(),
            "headers": [(b"authorization", f"Bearer {_TOKEN}".encode())],
        }
        world = self._world
        name = world.rng.choice(sorted(name for name in world.processes if name.startswith(service)))
        answer = await world.call(name, lambda process: process.feed(Request(scope)))
        return SimpleNamespace(
            status_code=200, raise_for_status=lambda: None, content=answer.body, headers=answer.headers
        )

    async def aclose(self) -> None:
        """Do nothing: no connection is open."""


@contextmanager
def simulated(world: World) -> Iterator[None]:
    """Replace clock, ids, broker, network and PostgreSQL's advisory locks by those of the world."""

    class Clock(datetime):
        """A clock with the simulated time."""

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            """Return the simulated time."""
            return (_BEGIN + timedelta(seconds=world.time())).astimezone(tz)

    async def try_advisory_lock(connection: AsyncConnection, lock: int) -> bool:
        """Acquire the lock as in PostgreSQL: it is held until its connection closes."""
        await connection.execute(text("SELECT 1"))
        mine = (await connection.get_raw_connection()).dbapi_connection
        holder = world.locks.get(lock)
        if holder is not None and holder.is_open and holder is not mine:
            return False
        world.locks[lock] = mine
        return True

    def feed_client(**_options: Any) -> _FeedClient:
        return _FeedClient(world)

    replacements = {
        **_PAUSES,
        "shared.ids.datetime": Clock,
        "shared.ids.uuid7": world.new_id,
        "shared.messaging.relay.try_advisory_lock": try_advisory_lock,
        "shared.messaging.transport.time": SimpleNamespace(monotonic=world.time),
        "shared.messaging.recovery.time": SimpleNamespace(monotonic=world.time),
        "shared.messaging.transport.nats": SimpleNamespace(connect=world.broker.connect),
        "shared.messaging.transport._detect_silent_server": lambda _client: None,  # it has no socket
        "shared.messaging.transport.httpx": SimpleNamespace(AsyncClient=feed_client, Timeout=httpx.Timeout),
    }
    with ExitStack() as stack:
        for name, value in replacements.items():
            stack.enter_context(mock.patch(name, value))
        yield
