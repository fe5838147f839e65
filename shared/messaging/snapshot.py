"""The snapshot of a service's data as events, for rebuilds and for consumers that lag behind what has been pruned.

`GET /internal/snapshot?after=<cursor>` returns a page in CloudEvents batch format. The response header X-Next-Cursor is
`after` of the next request; it is missing on the last page. X-Head is the position of the outbox' last event before the
page was read: the pages from this one on have the effect of all events up to there, because an event gets its position
after its commit and the data is only added to. X-Pruned is the last position that the outbox no longer has.
"""

from collections.abc import Awaitable, Callable, Sequence

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.db.database import reader
from shared.events import BATCH_MEDIA_TYPE, Event
from shared.http.auth import check_service_token
from shared.http.problems import Problem
from shared.http.request_checks import QueryRoute
from shared.messaging.outbox import Outbox

# Returns the events of the page after a cursor, empty for the first one, and the next cursor, None after the last page.
# Raises ValueError for an invalid cursor.
ReadPage = Callable[[AsyncConnection, str], Awaitable[tuple[Sequence[Event], str | None]]]


def route(engine: AsyncEngine, outbox: Outbox, secret: str, read_page: ReadPage) -> Route:
    """Return the route of the snapshot."""
    engine = reader(engine)

    async def snapshot(request: Request) -> Response:
        check_service_token(request.headers.get("authorization"), secret)
        async with engine.connect() as connection:
            headers = {
                "X-Head": str(await outbox.head(connection)),
                "X-Pruned": str(await outbox.pruned(connection)),
            }
            try:
                events, cursor = await read_page(connection, request.query_params.get("after", ""))
            except ValueError as error:
                errors = [{"pointer": "/query/after", "detail": "not a value of X-Next-Cursor"}]
                raise Problem("validation-failed", "Invalid query; see `errors`.", errors) from error
        if cursor is not None:
            headers["X-Next-Cursor"] = cursor
        return Response(orjson.dumps(events), media_type=BATCH_MEDIA_TYPE, headers=headers)

    return QueryRoute("/internal/snapshot", snapshot, "after")
