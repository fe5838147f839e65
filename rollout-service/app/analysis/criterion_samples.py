"""Reads operators' own criteria from Prometheus."""

import asyncio
from collections.abc import Sequence

from app.analysis.model import Criterion, CriterionValues
from app.analysis.queries import AnalysisWindow, MetricsUnavailable, Prometheus


async def read_criteria(
    prometheus: Prometheus, window: AnalysisWindow, criteria: Sequence[Criterion], interval: float = 5
) -> tuple[CriterionValues, ...]:
    """Return the values of the operators' criteria, at the last analyses' times within the step."""
    return tuple(await asyncio.gather(*(_read(prometheus, window, criterion, interval) for criterion in criteria)))


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
