"""Sends statements: short ones in one response, long ones page by page, with bounded memory and database use.

Each page is read in a separate transaction, so a slow client holds no connection or snapshot. The statement ends at a
`seq` that is read at the start, whatever is posted meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext

from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.formats import pdf
from app.formats.base import Format, Options
from app.statements import TOTALS_SIZE, Line, Statement, Totals
from shared.http.problems import Problem
from shared.runtime.tasks import shield

log = logging.getLogger(__name__)

# Concurrent long statements per process: NGINX sends a replica up to 96 requests, most of which must remain for others.
MAX_CONCURRENT = 24
_RETRY_AFTER_SECONDS = "5"
# Timeout for sending one part.
_SEND_TIMEOUT_SECONDS = 30.0
# Pause after each page, as a multiple of the time that reading it took.
_PAUSE_FACTOR = 2

ReadPage = Callable[[int], Awaitable[Sequence[Line]]]
ReadTotals = Callable[[int, int], Awaitable[Totals]]


class _Aborted(Exception):
    """The statement cannot be completed."""


class StreamLimiter:
    """Limits the number of long statements that a process sends concurrently, and reads one page at a time."""

    def __init__(self, limit: int = MAX_CONCURRENT) -> None:
        self._free_slots = limit
        self._page_lock = asyncio.Lock()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Take a slot for the duration of the block. Raises Problem (rate-limited) if none is free."""
        if self._free_slots == 0:
            # Not 503: NGINX would treat the replica as failed and send it no other requests either.
            detail = "Too many long statements at the same time; try again later, or request a shorter period."
            raise Problem("rate-limited", detail, headers={"Retry-After": _RETRY_AFTER_SECONDS})
        self._free_slots -= 1
        try:
            yield
        finally:
            self._free_slots += 1

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Let one reader work at a time, and pause afterwards.

        This leaves most of the CPU to other requests, however many long statements there are.
        """
        async with self._page_lock:
            started = time.perf_counter()
            yield
            await asyncio.sleep(_PAUSE_FACTOR * (time.perf_counter() - started))

    async def totals(self, statement: Statement, read_totals: ReadTotals) -> Totals:
        """Return the totals of all entries of a statement."""
        if not statement.has_more:
            return _totals_of_first_page(statement)
        totals = Totals(statement.opening.seq)
        for after in range(statement.opening.seq, statement.closing.seq, TOTALS_SIZE):
            async with self._turn():
                totals.merge(await shield(read_totals(after, min(after + TOTALS_SIZE, statement.closing.seq))))
        return totals

    async def parts(
        self, statement: Statement, format_: Format, read_page: ReadPage, read_totals: ReadTotals
    ) -> AsyncIterator[bytes]:
        """Yield the parts of a statement. Raises _Aborted if its entries no longer match its head."""
        announced = await self.totals(statement, read_totals) if format_.announces_totals else None
        totals = _totals_of_first_page(statement)
        yield format_.head(announced) + format_.entries(statement.lines)
        while totals.seq < statement.closing.seq:
            async with self._turn():
                lines = await shield(read_page(totals.seq))
                if not lines:
                    raise _Aborted(f"its entries after {totals.seq} were deleted")
                totals.add(lines)
                part = format_.entries(lines)
                del lines
            yield part
        if not totals.match(statement):
            raise _Aborted(f"it has {totals.count} entries up to {totals.seq}, not up to {statement.closing.seq}")
        if announced not in (None, totals):
            raise _Aborted("entries arrived late, after their totals were sent")
        yield format_.tail(totals)


def _totals_of_first_page(statement: Statement) -> Totals:
    totals = Totals(statement.opening.seq)
    totals.add(statement.lines)
    return totals


class _StatementResponse(StreamingResponse):
    """A long statement. An error closes the connection before the end of the document."""

    def __init__(
        self, streams: StreamLimiter, parts: AsyncIterator[bytes], headers: dict[str, str], media_type: str
    ) -> None:
        super().__init__(parts, headers=headers, media_type=media_type)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.slot():
            # shared.http.web passes HEAD requests on as GET, and sets `head`.
            if scope.get("head"):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
                return
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: dict[str, object]) -> None:
            async with asyncio.timeout(_SEND_TIMEOUT_SECONDS):
                await send(message)

        try:
            await super().stream_response(send_in_time)  # type: ignore[arg-type]
        except (_Aborted, TimeoutError, SQLAlchemyError, OSError) as error:
            # Not raised again: the server closes the connection of an incomplete response.
            log.warning("statement response aborted: %r", error)


async def pdf_response(
    streams: StreamLimiter, statement: Statement, options: Options, read_totals: ReadTotals, headers: dict[str, str]
) -> Response:
    """Return the response for a statement as PDF. Raises Problem (rate-limited) if too many long ones are sent."""
    with streams.slot() if statement.has_more else nullcontext():
        totals = await streams.totals(statement, read_totals)
    return Response(pdf.render(statement, totals, options), headers=headers, media_type=pdf.MEDIA_TYPE)


def statement_response(
    streams: StreamLimiter,
    statement: Statement,
    format_: Format,
    read_page: ReadPage,
    read_totals: ReadTotals,
    headers: dict[str, str],
) -> Response:
    """Return the response for a statement."""
    if statement.has_more:
        parts = streams.parts(statement, format_, read_page, read_totals)
        return _StatementResponse(streams, parts, headers, format_.media_type)
    totals = _totals_of_first_page(statement)
    content = format_.head(totals) + format_.entries(statement.lines) + format_.tail(totals)
    return Response(content, headers=headers, media_type=format_.media_type)
