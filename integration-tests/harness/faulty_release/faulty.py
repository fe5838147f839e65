"""Breaks the service that it starts, as FAULT says; it is in images of drills and nowhere else.

errors       every request of a client is answered 500, every other one after it has had its effect
some-errors  one of twenty is
slow         every one takes 300 ms longer
consumer     every event is refused
double-post  every entry is written twice
death        a request with the X-Request-ID query-of-death ends the process
unready      it never says that it is ready
none         nothing
"""

import asyncio
import importlib.util
import itertools
import os
import random
import runpy
from collections.abc import Awaitable, Callable
from typing import Any

from shared.http import health
from shared.http.web import Service

Answer = Callable[..., Awaitable[None]]


class Broken(Exception):
    """What a client sees as 500."""


def around_requests(change: Callable[[Answer, Any, Any, Any, Any], Awaitable[None]]) -> None:
    """Have clients' requests answered by `change`, inside what measures them."""
    answer = Service._handle  # pylint: disable=protected-access

    async def changed(self: Service, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/api/"):
            await change(answer, self, scope, receive, send)
        else:
            await answer(self, scope, receive, send)

    Service._handle = changed  # type: ignore[method-assign]  # pylint: disable=protected-access


def errors(share: float) -> None:
    turns = itertools.cycle((False, True))

    async def fail(answer: Answer, service: Any, scope: Any, receive: Any, send: Any) -> None:
        if random.random() >= share:  # nosec B311
            await answer(service, scope, receive, send)
            return
        if next(turns):
            await answer(service, scope, receive, _nowhere)
        raise Broken

    around_requests(fail)


async def _nowhere(_message: Any) -> None:
    return


def slow() -> None:
    async def wait(answer: Answer, service: Any, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.3)
        await answer(service, scope, receive, send)

    around_requests(wait)


def death() -> None:
    async def die(answer: Answer, service: Any, scope: Any, receive: Any, send: Any) -> None:
        if (b"x-request-id", b"query-of-death") in scope["headers"]:
            # The first process of a container gets no signal that it sends itself.
            os._exit(137)
        await answer(service, scope, receive, send)

    around_requests(die)


def consumer() -> None:
    module = importlib.import_module("app.consumer")
    handler = getattr(module, "HistoryHandler", None) or module.FlagHandler

    async def refuse(_self: Any, _events: Any, _move: Any = None) -> None:
        raise Broken

    handler.process = handler.dry_run = refuse


def double_post() -> None:
    if importlib.util.find_spec("app.ledger") is None:
        return
    repository = importlib.import_module("app.storage.repository")
    writes_for = repository.writes_for
    write_class = importlib.import_module("shared.db.database").Write

    def twice(write: Any) -> Any:
        if write.table.name != "entries":
            return write
        # account_id, seq, transaction_id, amount, balance_after
        again = [(row[0], row[1] + 1, row[2], row[3], row[4] + row[3]) for row in write.rows]
        return write_class(write.table, write.columns, [*write.rows, *again], write.key)

    repository.writes_for = lambda *of: [twice(write) for write in writes_for(*of)]


def unready() -> None:
    async def no(_check: Any) -> str:
        return Broken.__name__

    health._failure = no  # pylint: disable=protected-access


FAULTS: dict[str, Callable[[], None]] = {
    "errors": lambda: errors(1),
    "some-errors": lambda: errors(0.05),
    "slow": slow,
    "death": death,
    "consumer": consumer,
    "double-post": double_post,
    "unready": unready,
    "none": lambda: None,
}

if __name__ == "__main__":
    FAULTS[os.environ["FAULT"]]()
    runpy.run_module("app", run_name="__main__", alter_sys=True)
