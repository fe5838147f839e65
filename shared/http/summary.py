"""Public status of a service, which NGINX serves at /ops/SERVICE.json for the operations page.

It contains no accounts, customers, addresses or error messages.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.http import health
from shared.runtime.settings import ProcessSettings

# The checks run at most once per interval, however many clients there are.
_CACHE_SECONDS = 1.0


class _Cache:
    """The latest response, valid for `_CACHE_SECONDS`."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._response = b""
        self._until = 0.0

    async def get(self) -> bytes:
        async with self._lock:
            if time.monotonic() >= self._until:
                self._response = orjson.dumps(await self._make())
                self._until = time.monotonic() + _CACHE_SECONDS
            return self._response


def route(
    settings: ProcessSettings,
    checks: Callable[[], Mapping[str, health.Check]],
    public_fields: Callable[[], Mapping[str, Any]],
) -> Route:
    """Return the route `/health/summary`: service, version, track, readiness and the given public fields."""

    async def make() -> dict[str, Any]:
        failing = sorted(await health.failures(checks()))
        identity = {"service": settings.service, "version": settings.app_version, "track": settings.app_track}
        return {**identity, "ready": not failing, "failing": failing, **public_fields()}

    cache = _Cache(make)

    async def summary(_request: Request) -> Response:
        return Response(await cache.get(), media_type="application/json")

    return Route("/health/summary", summary)
