"""Reads contract probes and operators' own criteria from Prometheus."""

import asyncio
from collections.abc import Sequence

from app.analysis.model import Criterion, CriterionValues, ProbeFailures
from app.analysis.queries import AnalysisWindow, MetricsUnavailable, Prometheus, summed

_FAILURES = 'bank_contract_probe_failures_total{job="rollout-service"}'


async def read_probes(prometheus: Prometheus, window: AnalysisWindow) -> tuple[ProbeFailures, ...]:
    """Return the failures of contract probes in the step. Raises MetricsUnavailable if Prometheus does not answer."""
    found = summed(await prometheus.increase(_FAILURES, window.step, window.now, "probe"), 2, 4, 3)
    names = sorted({(service, probe) for service, probe, _ in found})
    return tuple(
        ProbeFailures(*name, found.get((*name, "canary"), 0.0), found.get((*name, "stable"), 0.0)) for name in names
    )


async def read_criteria(
    prometheus: Prometheus, window: AnalysisWindow, criteria: Sequence[Criterion], interval: float = 5
) -> tuple[CriterionValues, ...]:
    """Return the values of the operators' criteria, at the last analyses' times within the step."""
    return tuple(await asyncio.gather(*(_read(prometheus, window, one, interval) for one in criteria)))


async def _read(
    prometheus: Prometheus, window: AnalysisWindow, criterion: Criterion, interval: float
) -> CriterionValues:
    ages = [number * interval for number in reversed(range(criterion.analyses))]
    times = [window.now - age for age in ages if window.now - age >= window.step + window.warm_up]
    values = await asyncio.gather(
        *(_value(prometheus, query, at) for query in (criterion.canary, criterion.stable) for at in times)
    )
    return CriterionValues(criterion, tuple(values[: len(times)]), tuple(values[len(times) :]))


async def _value(prometheus: Prometheus, query: str, at: float) -> float | None:
    """Return the one value of a query; None without one, or with several."""
    try:
        values = list((await prometheus.query(query, at, "__name__", "instance", "service")).values())
    except MetricsUnavailable:
        return None
    return values[0] if len(values) == 1 else None
