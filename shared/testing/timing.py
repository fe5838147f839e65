"""Time in tests: limits that hold on a busy machine, and a clock that only the test moves.

A test must not depend on how fast the machine is. It replaces the clock of a module (`monkeypatch.setattr(module,
"time", clock)`), waits for an event or a condition instead of sleeping, and limits durations from the safe side only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Time limit for everything that a test waits for; it only delays failures. A delay that a test rules out is longer.
BUSY_SECONDS = 60


@dataclass
class StoppedClock:
    """Stands for the module `time`: all of its clocks show `now`, which only the test changes."""

    now: float = 1_000_000_000.0

    def time(self) -> float:
        """Return the current time."""
        return self.now

    monotonic = perf_counter = thread_time = time

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(BUSY_SECONDS):
        while not await holds():
            await asyncio.sleep(0.02)


@contextmanager
def assert_prompt() -> Iterator[None]:
    """Fail if the block takes as long as the delay that it must not have."""
    begun = time.monotonic()
    yield
    assert (took := time.monotonic() - begun) < BUSY_SECONDS, f"{took:.1f} s"


@contextmanager
def assert_cpu_below(seconds: float) -> Iterator[None]:
    """Fail if the block computes for longer than this; what other processes do does not count.

    Allow for a garbage collection, which takes tenths of a second in a long test run.
    """
    begun = time.thread_time()
    yield
    assert (took := time.thread_time() - begun) < seconds, f"{took:.3f} s of CPU"
