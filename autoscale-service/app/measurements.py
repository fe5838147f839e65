"""Reads the recorded series that decisions rest on from Prometheus' HTTP API."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from app.policy import Load

log = logging.getLogger(__name__)

_SECONDS = 2.0
# What has a track is of the stable one; loads have none.
_SELECTOR = '{__name__=~"autoscale:load:(value|target)|service:replicas:ready", track=~"stable|"}'


@dataclass(slots=True)
class Measured:
    """What is measured of a service at one moment: stable replicas that answer, and load and target by metric."""

    ready: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    targets: dict[str, float] = field(default_factory=dict)

    def load(self, metric: str) -> Load | None:
        """Return one of the loads; None when a half of it is missing."""
        if metric in self.values and metric in self.targets:
            return Load(self.values[metric], self.targets[metric])
        return None


class Measurements(Protocol):
    """Where measurements come from. Both give nothing when there is no answer."""

    async def now(self) -> Mapping[str, Measured]:
        """Return the newest of every service."""
        ...

    async def past(self, start: float, end: float, step: float) -> Mapping[str, Mapping[float, Measured]]:
        """Return those of a time, every `step` seconds, by service and time (seconds since 1970)."""
        ...


class Prometheus:
    """Measurements from a Prometheus server."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url = url.rstrip("/")
        self._client = client

    async def now(self) -> Mapping[str, Measured]:
        """Return the newest of every service."""
        found: dict[str, Measured] = {}
        for series in await self._query("query", {"query": _SELECTOR}):
            _add(found.setdefault(series["metric"].get("service", ""), Measured()), series["metric"], series["value"])
        return found

    async def past(self, start: float, end: float, step: float) -> Mapping[str, Mapping[float, Measured]]:
        """Return those of a time, every `step` seconds, by service and time (seconds since 1970)."""
        found: dict[str, dict[float, Measured]] = {}
        window = {"query": _SELECTOR, "start": start, "end": end, "step": step}
        for series in await self._query("query_range", window):
            moments = found.setdefault(series["metric"].get("service", ""), {})
            for sample in series["values"]:
                _add(moments.setdefault(float(sample[0]), Measured()), series["metric"], sample)
        return found

    async def _query(self, kind: str, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the result of a query; nothing when it cannot be had, for any reason."""
        try:
            answer = await self._client.post(f"{self._url}/api/v1/{kind}", data=parameters, timeout=_SECONDS)
            answer.raise_for_status()
            return list(answer.json()["data"]["result"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            log.warning("Prometheus gives no answer: %r", error)
            return []


def _add(measured: Measured, labels: Mapping[str, str], sample: tuple[float, str]) -> None:
    value = float(sample[1])
    match labels.get("__name__"):
        case "autoscale:load:value":
            measured.values[labels.get("metric", "")] = value
        case "autoscale:load:target":
            measured.targets[labels.get("metric", "")] = value
        case "service:replicas:ready" if math.isfinite(value):
            measured.ready = int(value)
