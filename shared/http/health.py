"""Health endpoints: liveness (the process responds) and readiness (it can serve requests)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.http import problems

Check = Callable[[], Awaitable[None]]

_CHECK_SECONDS = 3


def task_check(task: "asyncio.Task[None]") -> Check:
    """Return a check that fails once a background task has ended."""

    async def check() -> None:
        if task.done():
            raise RuntimeError(f"task {task.get_name()} has ended")

    return check


async def _failure(check: Check) -> str | None:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await check()
    except Exception as error:  # pylint: disable=broad-exception-caught  # any failure means not ready
        return type(error).__name__
    return None


async def failures(checks: Mapping[str, Check]) -> dict[str, str]:
    """Run the checks concurrently; return the exception type of each failed check by name."""
    results = await asyncio.gather(*(_failure(check) for check in checks.values()))
    return {name: reason for name, reason in zip(checks, results) if reason}


def routes(checks: Callable[[], Mapping[str, Check]]) -> list[Route]:
    """Return the routes `/health/live` and `/health/ready`; `checks` is called for every request."""

    async def live(_request: Request) -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def ready(request: Request) -> Response:
        current = checks()
        reasons = await failures(current)
        failed = [{"pointer": f"/checks/{name}", "detail": reason} for name, reason in reasons.items()]
        if failed:
            problem = problems.Problem(
                "unavailable", "Not ready; see `errors` for the failed checks.", failed, {"Retry-After": "1"}
            )
            return problems.response(problem, request.url.path, request.scope.get("request_id", ""))
        body = {"status": "ok", "checks": {name: "ok" for name in current}}
        return Response(orjson.dumps(body), media_type="application/json")

    return [Route("/health/live", live), Route("/health/ready", ready)]
