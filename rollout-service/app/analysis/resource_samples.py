"""Reads the resources of canary and stable from Prometheus."""

import asyncio
import math
from collections.abc import Iterable, Mapping

from app.analysis.model import ResourceCounts, ResourceUse
from app.analysis.queries import AnalysisWindow, Key, Prometheus, Values

_OF = 'job="services"'
_LABELS = ("instance", "service", "track")


async def read_resources(
    prometheus: Prometheus, window: AnalysisWindow, services: Iterable[str]
) -> tuple[ResourceCounts, ...]:
    """Return the resources in the step. Raises MetricsUnavailable if Prometheus does not answer."""
    now, warm = window.now, min(window.step + window.warm_up, window.now)
    counters = asyncio.gather(
        prometheus.increase(f"http_request_cpu_seconds_bucket{{{_OF}}}", warm, now, "handler", "method", "le"),
        prometheus.increase(f"event_loop_lag_seconds_bucket{{{_OF}}}", warm, now, "le"),
        prometheus.increase(f"process_cpu_seconds_total{{{_OF}}}", warm, now),
    )
    gauges = asyncio.gather(
        prometheus.query(f"process_open_fds{{{_OF}}}", now, *_LABELS),
        prometheus.query(f"process_threads{{{_OF}}}", now, *_LABELS),
        prometheus.query(f"process_start_time_seconds{{{_OF}}}", now, *_LABELS),
        prometheus.points(f"process_resident_memory_bytes{{{_OF}}}", warm, now, window.scrape, *_LABELS),
        prometheus.points(
            f'sum by (instance, service, track) (http_requests_total{{{_OF}, handler=~"/api/.*|unmatched"}})',
            *(warm, now, window.scrape),
            *_LABELS,
        ),
    )
    (cpu, lag, seconds), (files, threads, started, memory, completed) = await asyncio.gather(counters, gauges)
    elapsed = now - warm

    def use(of: set[Key]) -> ResourceUse:
        own = {instance for instance, *_ in of}
        at_all = {key[0]: value for key, value in seconds.items() if key[0] in own}
        return ResourceUse(
            cpu=_histograms(cpu, own),
            lag=_histograms(lag, own).get("", {}),
            cores=max(at_all.values(), default=0.0) / elapsed if at_all and elapsed >= 10 else None,
            files=max((files[key] for key in of if key in files), default=None),
            threads=max((threads[key] for key in of if key in threads), default=None),
            memory=tuple(_memory(memory[key], completed.get(key, {})) for key in sorted(of) if key in memory),
        )

    found = []
    for service in services:
        canary, stable = ({key for key in started if key[1:] == (service, track)} for track in ("canary", "stable"))
        baseline = {key for key in stable if started[key] >= window.rollout}
        found.append(ResourceCounts(service, use(canary), use(baseline or stable), bool(baseline)))
    return tuple(found)


def _histograms(values: Values, instances: set[str]) -> dict[str, dict[str, float]]:
    """Return cumulative counts by `METHOD handler` (empty without these labels) and `le`."""
    found: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        if key[0] in instances:
            *labels, le = key[4:]
            buckets = found.setdefault(" ".join(reversed(labels)), {})
            buckets[le] = buckets.get(le, 0.0) + value
    return found


def _memory(bytes_at: Mapping[float, float], requests_at: Mapping[float, float]) -> tuple[tuple[float, float], ...]:
    """Return requests and bytes at each scrape."""
    return tuple((requests_at.get(at, 0.0), value) for at, value in sorted(bytes_at.items()) if math.isfinite(value))
