"""End-to-end measurements: transfers through NGINX until they are in the history, and the lag of the history.

A transfer counts once transaction-service has committed its events, so throughput includes the history's. The lag is
the age of the oldest event that is not in the history.
"""

import asyncio
import statistics
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg

from bench.environment import HISTORY, LEDGER, Bench
from bench.measurement import Failure, Load
from shared.messaging.positions import Positions

_SAMPLE_SECONDS = 0.02
_CATCH_UP_SECONDS = 300
_CONSUMED = "SELECT ranges FROM consumed_positions WHERE source = 'account-service'"
_OLDEST_AFTER = "SELECT created_at FROM outbox WHERE position > $1 ORDER BY position LIMIT 1"
_OLDEST_UNSEQUENCED = "SELECT created_at FROM outbox WHERE position IS NULL ORDER BY id LIMIT 1"


@dataclass
class Lag:
    """Samples of the lag in seconds, taken by a thread at regular intervals."""

    samples: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Return a percentile of the samples in ms."""
        ordered = sorted(self.samples)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    def growth(self) -> float:
        """Return by how many ms the median lag of the last third exceeds that of the first."""
        third = len(self.samples) // 3
        return (statistics.median(self.samples[-third:]) - statistics.median(self.samples[:third])) * 1000


async def _lag_seconds(ledger: asyncpg.Connection, history: asyncpg.Connection) -> float:
    ranges = await history.fetchval(_CONSUMED)
    end = Positions.loads(ranges).gapless_end if ranges else 0
    oldest = await ledger.fetchval(_OLDEST_AFTER, end) or await ledger.fetchval(_OLDEST_UNSEQUENCED)
    return max(0.0, (datetime.now(UTC) - oldest).total_seconds()) if oldest else 0.0


@asynccontextmanager
async def _connected(bench: Bench) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Connection]]:
    """Connect to the databases of the ledger and the history."""
    connections = [await asyncpg.connect(bench.server.url(name, "postgresql")) for name in (LEDGER, HISTORY)]
    try:
        yield connections[0], connections[1]
    finally:
        for connection in connections:
            await connection.close()


async def _sample(bench: Bench, lag: Lag, stopped: threading.Event) -> None:
    async with _connected(bench) as databases:
        while not stopped.is_set():
            lag.samples.append(await _lag_seconds(*databases))
            await asyncio.sleep(_SAMPLE_SECONDS)


@contextmanager
def sampled(bench: Bench) -> Iterator[Lag]:
    """Sample the lag while the block runs."""
    lag, stopped = Lag(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_sample(bench, lag, stopped)))
    thread.start()
    try:
        yield lag
    finally:
        stopped.set()
        thread.join()


def wait_until_consumed(bench: Bench) -> None:
    """Wait until all events are in the history. Raises Failure at the timeout."""

    async def wait() -> bool:
        deadline = time.monotonic() + _CATCH_UP_SECONDS
        async with _connected(bench) as databases:
            while await _lag_seconds(*databases) > 0:
                if time.monotonic() > deadline:
                    return False
                await asyncio.sleep(_SAMPLE_SECONDS)
        return True

    if not asyncio.run(wait()):
        raise Failure(f"the history has not caught up within {_CATCH_UP_SECONDS} s")


def load(bench: Bench, accounts: int) -> Load:
    """Send transfers through NGINX in a closed loop, and wait until they are in the history."""
    started = time.monotonic()
    accepted = bench.send_transfers(bench.stack.api_url, accounts)
    wait_until_consumed(bench)
    return Load(accepted.operations, time.monotonic() - started, accepted.p50, accepted.p99)


def lag_at(bench: Bench, per_second: float) -> tuple[float, Lag]:
    """Send transfers at approximately this rate; return the actual rate and the lag of the history."""
    bench.checkpoint()
    with sampled(bench) as lag:
        result = bench.paced(bench.stack.api_url, per_second)
    wait_until_consumed(bench)
    return result.per_second, lag
