"""Reads the resources of canary and stable from Prometheus."""

import asyncio
import math
from collections.abc import Iterable, Mapping

from app.analysis.model import ResourceCounts, ResourceUse
from app.analysis.queries import AnalysisWindow, Key, Prometheus, Values

_JOB = 'job="services"'
_LABELS = ("instance", "service", "track")


async def read_resources(
    prometheus: Prometheus, window: AnalysisWindow, services: Iterable[str]
) -> tuple[ResourceCounts, ...]:
    """Return the resources in the step. Raises MetricsUnavailable if Prometheus does not answer."""
    now, warm = window.now, min(window.step + window.warm_up, window.now)
    counters = asyncio.gather(
        prometheus.increase(f"http_request_cpu_seconds_bucket{{{_JOB}}}", warm, now, "handler", "method", "le"),
        prometheus.increase(f"event_loop_lag_seconds_bucket{{{_JOB}}}", warm, now, "le"),
        prometheus.increase(f"process_cpu_seconds_total{{{_JOB}}}", warm, now),
    )
    gauges = asyncio.gather(
        prometheus.query(f"process_open_fds{{{_JOB}}}", now, *_LABELS),
        prometheus.query(f"process_threads{{{_JOB}}}", now, *_LABELS),
        prometheus.query(f"process_start_time_seconds{{{_JOB}}}", now, *_LABELS),
        prometheus.points(f"process_resident_memory_bytes{{{_JOB}}}", warm, now, window.scrape, *_LABELS),
        prometheus.points(
            f'sum by (instance, service, track) (http_requests_total{{{_JOB}, handler=~"/api/.*|unmatched"}})',
            *(warm, now, window.scrape),
            *_LABELS,
        ),
    )
    (cpu, lag, seconds), (files, threads, started, memory, completed) = await asyncio.gather(counters, gauges)
    elapsed = now - warm

    def use(replicas: set[Key]) -> ResourceUse:
        instances = {instance for instance, *_ in replicas}
        cpu_seconds = {key[0]: value for key, value in seconds.items() if key[0] in instances}
        return ResourceUse(
            cpu=_histograms(cpu, instances),
            lag=_histograms(lag, instances).get("", {}),
            cores=max(cpu_seconds.values(), default=0.0) / elapsed if cpu_seconds and elapsed >= 10 else None,
            files=max((files[key] for key in replicas if key in files), default=None),
            threads=max((threads[key] for key in replicas if key in threads), default=None),
            memory=tuple(_memory(memory[key], completed.get(key, {})) for key in sorted(replicas) if key in memory),
        )

    counts = []
    for service in services:
        canary, stable = ({key for key in started if key[1:] == (service, track)} for track in ("canary", "stable"))
        baseline = {key for key in stable if started[key] >= window.rollout}
        counts.append(ResourceCounts(service, use(canary), use(baseline or stable), bool(baseline)))
    return tuple(counts)


def _histograms(values: Values, instances: set[str]) -> dict[str, dict[str, float]]:
    """Return cumulative counts by `METHOD handler` (empty without these labels) and `le`."""
    histograms: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        if key[0] in instances:
            *labels, le = key[4:]
            buckets = histograms.setdefault(" ".join(reversed(labels)), {})
            buckets[le] = buckets.get(le, 0.0) + value
    return histograms


def _memory(bytes_at: Mapping[float, float], requests_at: Mapping[float, float]) -> tuple[tuple[float, float], ...]:
    """Return requests and bytes at each scrape."""
    return tuple((requests_at.get(at, 0.0), value) for at, value in sorted(bytes_at.items()) if math.isfinite(value))
