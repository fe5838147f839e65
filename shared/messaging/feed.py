"""The HTTP feed of a service's outbox, in CloudEvents batch format.

`GET /internal/events?after=<position>&limit=<events>&wait=<seconds>`

Positions that the outbox has pruned are 410 Gone; consumers then read the snapshot (shared/messaging/snapshot.py).
"""

import asyncio

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.db.database import reader
from shared.http.auth import check_service_token
from shared.events import BATCH_MEDIA_TYPE
from shared.messaging.outbox import Outbox
from shared.http.problems import Problem
from shared.http.request_checks import QueryRoute
from shared.runtime.server import ShutdownSignal

MAX_LIMIT = 1000
MAX_WAIT_SECONDS = 30
FIRST_POSITION = "X-First-Position"
_POLL_SECONDS = 0.05


def _number(request: Request, name: str, default: int, maximum: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Problem(
            "validation-failed",
            "Invalid query; see `errors`.",
            [{"pointer": f"/query/{name}", "detail": "not an integer ≥ 0"}],
        )
    return min(int(text), maximum)


def _pruned(after: int, first: int) -> Problem:
    detail = f"The event at position {after + 1} has been pruned; read /internal/snapshot, or events from {first} on."
    return Problem("events-pruned", detail, headers={FIRST_POSITION: str(first)})


def route(engine: AsyncEngine, outbox: Outbox, secret: str) -> Route:
    """Return the route of the feed. The response header X-Next-Position is `after` of the next request.

    With 410 Gone, X-First-Position is the first position that is available.
    """
    engine = reader(engine)

    async def events(request: Request) -> Response:
        check_service_token(request.headers.get("authorization"), secret)
        after = _number(request, "after", 0, 2**62)
        limit = max(1, _number(request, "limit", 500, MAX_LIMIT))
        deadline = asyncio.get_running_loop().time() + _number(request, "wait", 0, MAX_WAIT_SECONDS)
        pruned: int | None = None
        while True:
            async with engine.connect() as connection:
                found = await outbox.read(connection, after, limit)
                if pruned is None:
                    # After reading: rows may have been pruned meanwhile. Once: rows of the wait are too recent.
                    pruned = 0 if found and found[0][0] == after + 1 else await outbox.pruned(connection)
            if after < pruned:
                raise _pruned(after, pruned + 1)
            if found or ShutdownSignal.now or asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(_POLL_SECONDS)
        position = found[-1][0] if found else after
        content = orjson.dumps([event for _, event in found])
        return Response(content, media_type=BATCH_MEDIA_TYPE, headers={"X-Next-Position": str(position)})

    return QueryRoute("/internal/events", events, "after", "limit", "wait")
