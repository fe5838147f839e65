"""Sends statements: a short one at once, a long one page by page, so that it never takes much memory or the database.

Each page is read in a transaction of its own, so a slow client holds no connection and no snapshot; a `seq` read at the
start is where the statement ends, whatever is posted meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.statements import CsvFormat, JsonFormat, Line, Statement, Totals
from shared.http.problems import Problem
from shared.runtime.tasks import uninterrupted

log = logging.getLogger(__name__)

# Long statements at once in a process. NGINX gives a replica 96 requests at once, and the others need most of them.
MOST_AT_ONCE = 24
_RETRY_AFTER_SECONDS = "5"
# How long a client may take to accept one part.
_SEND_SECONDS = 30.0
# Of the time that reading a page took.
_PAUSE = 2

Read = Callable[[int], Awaitable[Sequence[Line]]]


class _Aborted(Exception):
    """The statement cannot be sent to its end."""


class Streams:
    """The long statements that a process is sending: how many, and whose turn it is to read a page."""

    def __init__(self, most: int = MOST_AT_ONCE) -> None:
        self._free = most
        self._turn = asyncio.Lock()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places for the time of the block. Raises Problem (rate-limited) when there is none."""
        if self._free == 0:
            # Not 503: NGINX would take the replica for one that fails, and send it nothing else either.
            detail = "Too many long statements are being sent; try again, or ask for a shorter period."
            raise Problem("rate-limited", detail, headers={"Retry-After": _RETRY_AFTER_SECONDS})
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def documents(self, statement: Statement, form: JsonFormat | CsvFormat, read: Read) -> AsyncIterator[bytes]:
        """Yield the parts of a statement. Raises _Aborted when its entries are no longer what its head says."""
        totals = Totals(statement.opening.seq)
        totals.add(statement.lines)
        yield form.head() + form.entries(statement.lines)
        while totals.seq < statement.closing.seq:
            # One page at a time in the whole process, and then none for twice as long: that leaves most of the process
            # to other requests, however many long statements there are.
            async with self._turn:
                begun = time.perf_counter()
                lines = await uninterrupted(read(totals.seq))
                if not lines:
                    raise _Aborted(f"its entries after {totals.seq} are gone")
                totals.add(lines)
                part = form.entries(lines)
                del lines
                await asyncio.sleep(_PAUSE * (time.perf_counter() - begun))
            yield part
        if not totals.are_of(statement):
            raise _Aborted(f"it has {totals.count} entries up to {totals.seq}, not up to {statement.closing.seq}")
        yield form.tail(totals)


class _Stream(StreamingResponse):
    """A long statement. Whatever keeps it from its end closes the connection without the end of the document."""

    def __init__(self, streams: Streams, parts: AsyncIterator[bytes], headers: dict[str, str], media_type: str) -> None:
        super().__init__(parts, headers=headers, media_type=media_type)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.place():
            # `head` marks a HEAD that is answered as a GET without its content.
            if scope["method"] == "HEAD" or scope.get("head"):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
                return
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: dict[str, object]) -> None:
            async with asyncio.timeout(_SEND_SECONDS):
                await send(message)

        try:
            await super().stream_response(send_in_time)  # type: ignore[arg-type]
        except (_Aborted, TimeoutError, SQLAlchemyError, OSError) as error:
            # Not raised again: the server closes the connection of an answer that has no end.
            log.warning("a statement is cut off: %r", error)


def respond(
    streams: Streams, statement: Statement, form: JsonFormat | CsvFormat, read: Read, headers: dict[str, str]
) -> Response:
    """Return the response with a statement."""
    if statement.has_more:
        return _Stream(streams, streams.documents(statement, form, read), headers, form.media_type)
    totals = Totals(statement.opening.seq)
    totals.add(statement.lines)
    content = form.head() + form.entries(statement.lines) + form.tail(totals)
    return Response(content, headers=headers, media_type=form.media_type)
