"""Reads the recording rules that scaling decisions use from Prometheus' HTTP API."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from app.policy import MetricValue

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 2.0
# Series with a track are limited to stable; the others have no track.
_SELECTOR = '{__name__=~"autoscale:load:(value|panic_value|target)|service:replicas:ready", track=~"stable|"}'


@dataclass(slots=True)
class ServiceMetrics:
    """Metrics of a service at one time: ready stable replicas, and by metric name the values and targets.

    `panic_values` are measured over the short window of the panic mode.
    """

    ready: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    panic_values: dict[str, float] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)

    def load(self, metric: str) -> MetricValue | None:
        """Return a metric; None unless both value and target exist."""
        if metric in self.values and metric in self.targets:
            return MetricValue(self.values[metric], self.targets[metric])
        return None

    @property
    def panic_loads(self) -> tuple[MetricValue, ...]:
        """The metrics measured over the panic window."""
        return tuple(
            MetricValue(value, self.targets[metric])
            for metric, value in sorted(self.panic_values.items())
            if metric in self.targets
        )


class MetricsClient(Protocol):
    """Source of metrics. Both methods return an empty result when the query fails."""

    async def query(self) -> Mapping[str, ServiceMetrics]:
        """Return the current metrics of all services."""
        ...

    async def query_range(self, start: float, end: float, step: float) -> Mapping[str, Mapping[float, ServiceMetrics]]:
        """Return the metrics of a period, every `step` seconds, by service and Unix timestamp."""
        ...


class PrometheusClient:
    """Queries a Prometheus server."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url = url.rstrip("/")
        self._client = client

    async def query(self) -> Mapping[str, ServiceMetrics]:
        """Return the current metrics of all services."""
        by_service: dict[str, ServiceMetrics] = {}
        for series in await self._get("query", {"query": _SELECTOR}):
            _add(
                by_service.setdefault(series["metric"].get("service", ""), ServiceMetrics()),
                series["metric"],
                series["value"],
            )
        return by_service

    async def query_range(self, start: float, end: float, step: float) -> Mapping[str, Mapping[float, ServiceMetrics]]:
        """Return the metrics of a period, every `step` seconds, by service and Unix timestamp."""
        by_service: dict[str, dict[float, ServiceMetrics]] = {}
        window = {"query": _SELECTOR, "start": start, "end": end, "step": step}
        for series in await self._get("query_range", window):
            by_time = by_service.setdefault(series["metric"].get("service", ""), {})
            for sample in series["values"]:
                _add(by_time.setdefault(float(sample[0]), ServiceMetrics()), series["metric"], sample)
        return by_service

    async def _get(self, kind: str, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the result of a query; empty when the query fails."""
        try:
            response = await self._client.post(f"{self._url}/api/v1/{kind}", data=parameters, timeout=_TIMEOUT_SECONDS)
            response.raise_for_status()
            return list(response.json()["data"]["result"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            log.warning("Prometheus query failed: %r", error)
            return []


def _add(metrics: ServiceMetrics, labels: Mapping[str, str], sample: tuple[float, str]) -> None:
    value = float(sample[1])
    match labels.get("__name__"):
        case "autoscale:load:value":
            metrics.values[labels.get("metric", "")] = value
        case "autoscale:load:panic_value":
            metrics.panic_values[labels.get("metric", "")] = value
        case "autoscale:load:target":
            metrics.targets[labels.get("metric", "")] = value
        case "service:replicas:ready" if math.isfinite(value):
            metrics.ready = int(value)
