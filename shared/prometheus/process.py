"""Metrics of the process that prometheus_client's own collector does not have: threads and event-loop lag."""

import asyncio
import threading

from prometheus_client import Gauge, Histogram

from shared.prometheus.registry import REGISTRY

_LAG_INTERVAL_SECONDS = 0.25

THREADS = Gauge("process_threads", "Number of Python threads.", registry=REGISTRY)
THREADS.set_function(threading.active_count)
LOOP_LAG = Histogram(
    "event_loop_lag_seconds",
    "How late the event loop runs a timer, sampled four times a second, in seconds.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
    registry=REGISTRY,
)


async def measure_loop_lag() -> None:
    """Sample the event-loop lag until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_INTERVAL_SECONDS
        await asyncio.sleep(_LAG_INTERVAL_SECONDS)
        LOOP_LAG.observe(max(0.0, loop.time() - due))
