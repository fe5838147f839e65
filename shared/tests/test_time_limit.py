"""Time limit of API requests."""

import asyncio
from typing import Any

import pytest

from shared.http import time_limit
from shared.http.problems import Problem
from shared.testing.timing import BUSY_SECONDS

START, BODY = {"type": "http.response.start", "status": 200, "headers": []}, {"type": "http.response.body"}


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that every request exceeds unless it responds at once."""
    monkeypatch.setattr(time_limit, "RESPONSE_SECONDS", 0.01)


async def respond(handle: Any) -> list[Any]:
    """Return what a handler sends within the limit."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async with asyncio.timeout(BUSY_SECONDS):
        await time_limit.respond_in_time(handle, {}, None, send)
    return sent


async def test_a_request_that_takes_too_long_gets_503() -> None:
    async def stuck(_scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Problem) as caught:
        await respond(stuck)
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")


async def test_a_response_that_has_begun_may_take_longer() -> None:
    async def stream(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.sleep(0.05)
        await send(BODY)

    assert await respond(stream) == [START, BODY]


async def test_a_time_limit_of_the_handler_is_its_own() -> None:
    async def outage(_scope: Any, _receive: Any, _send: Any) -> None:
        raise TimeoutError("database")

    with pytest.raises(TimeoutError, match="database"):
        await respond(outage)
