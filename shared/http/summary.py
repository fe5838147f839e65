"""What anybody may see of a service: NGINX hands it out at /ops/SERVICE.json, for the operations page.

So nothing of accounts, people or addresses, and no texts of errors.
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

# However many people look, the checks run once in so long.
_KEPT_SECONDS = 1.0


class _Kept:
    """The last answer, for as long as it is good."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._answer = b""
        self._until = 0.0

    async def get(self) -> bytes:
        async with self._lock:
            if time.monotonic() >= self._until:
                self._answer = orjson.dumps(await self._make())
                self._until = time.monotonic() + _KEPT_SECONDS
            return self._answer


def route(
    settings: ProcessSettings,
    checks: Callable[[], Mapping[str, health.Check]],
    shown: Callable[[], Mapping[str, Any]],
) -> Route:
    """Return the route `/health/summary`: who answers, whether it is ready, and what else the service shows."""

    async def make() -> dict[str, Any]:
        failing = sorted(await health.failures(checks()))
        who = {"service": settings.service, "version": settings.app_version, "track": settings.app_track}
        return {**who, "ready": not failing, "failing": failing, **shown()}

    kept = _Kept(make)

    async def summary(_request: Request) -> Response:
        return Response(await kept.get(), media_type="application/json")

    return Route("/health/summary", summary)
