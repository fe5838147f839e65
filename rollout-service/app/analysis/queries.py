"""Queries of Prometheus' HTTP API.

Counter increases are the difference of two instant queries, at the start and now: exact counts, where `increase`
extrapolates. A series that is missing at the start counts from 0; one that is lower than at the start was reset, and
counts in full. Requests that a replica served before it was removed still count. Prometheus scrapes every 5 s, so both
ends are up to one scrape interval old.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 2.0
_REPLICA = ("instance", "version", "service", "track")

Key = tuple[str, ...]
Values = Mapping[Key, float]


class MetricsUnavailable(Exception):
    """The Prometheus query failed or returned no usable result."""


@dataclass(frozen=True, slots=True)
class AnalysisWindow:
    """Start of the step and of the rollout, and the current time, as Unix timestamps.

    Invariants are compared since the start of the rollout: a violation may be detected only in the next step. Stable's
    requests in the `before_seconds` before the rollout, and until the step, are its baseline before the step. Latencies
    count from `warm_up` seconds after the start of a step; `scrape` is Prometheus' scrape interval in seconds.
    """

    step: float
    now: float
    rollout: float
    before_seconds: float = 600
    warm_up: float = 10
    scrape: float = 5

    @property
    def before(self) -> float:
        """Start of the time before the step."""
        return min(self.rollout, self.step) - self.before_seconds


class Prometheus:
    """A client of a Prometheus server."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url = url.rstrip("/")
        self._client = client

    async def query(self, expression: str, at: float, *labels: str) -> Values:
        """Return the values of an instant query by labels; raises MetricsUnavailable."""
        result = await self._post("query", {"query": expression, "time": f"{at:.3f}"})
        try:
            return {
                tuple(series["metric"].get(label, "") for label in labels): float(series["value"][1])
                for series in result
            }
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise MetricsUnavailable(str(error)) from error

    async def points(
        self, expression: str, start: float, end: float, step: float, *labels: str
    ) -> Mapping[Key, Mapping[float, float]]:
        """Return the values of a range query by labels and time; raises MetricsUnavailable."""
        period = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{max(step, 1.0):.3f}"}
        result = await self._post("query_range", {"query": expression, **period})
        try:
            return {
                tuple(series["metric"].get(label, "") for label in labels): {
                    float(at): float(value) for at, value in series["values"]
                }
                for series in result
            }
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise MetricsUnavailable(str(error)) from error

    async def increase(self, selector: str, start: float, end: float, *labels: str) -> Values:
        """Return the increase of counters by replica (instance, version, service, track) and labels.

        All counters of a replica are reset together, so sums per replica are sufficient. Raises MetricsUnavailable.
        """
        by = (*_REPLICA, *labels)
        grouped = f"sum by ({', '.join(by)})"
        if start == end:
            return dict.fromkeys(await self.query(f"{grouped} ({selector})", end, *by), 0.0)
        window = max(1, round((end - start) * 1000))
        now, before = await asyncio.gather(
            self.query(f"{grouped} (last_over_time({selector}[{window}ms]))", end, *by),
            self.query(f"{grouped} ({selector})", start, *by),
        )
        return {
            key: value if value < before.get(key, 0.0) else value - before.get(key, 0.0) for key, value in now.items()
        }

    async def _post(self, path: str, data: Mapping[str, str]) -> Any:
        try:
            response = await self._client.post(f"{self._url}/api/v1/{path}", data=data, timeout=_TIMEOUT_SECONDS)
            response.raise_for_status()
            return response.json()["data"]["result"]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
            log.warning("Prometheus query failed: %r", error)
            raise MetricsUnavailable(str(error)) from error


def summed(values: Values, *positions: int) -> dict[Key, float]:
    """Return the sums by the labels at some positions."""
    sums: dict[Key, float] = {}
    for key, value in values.items():
        short = tuple(key[position] for position in positions)
        sums[short] = sums.get(short, 0.0) + value
    return sums
