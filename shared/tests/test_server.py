"""What a service's process says of things that nobody waits for."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from shared.server import without_forsaken_lookups

NOWHERE = "nobody-has-this-name.invalid"


async def told_after(leave_something: Callable[[], Awaitable[None]]) -> str:
    """Let something fail that nobody waits for, and return what the loop's handler was told of it."""
    told: list[dict[str, Any]] = []

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        without_forsaken_lookups(loop, context)
        told.append(context)

    asyncio.get_running_loop().set_exception_handler(handler)
    await leave_something()
    async with asyncio.timeout(20):
        while not told:
            await asyncio.sleep(0.05)
            gc.collect()
    (context,) = told
    return str(context["message"])


async def connection_given_up() -> None:
    connecting = asyncio.ensure_future(asyncio.open_connection(NOWHERE, 4222))
    await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait([connecting])
    assert connecting.cancelled()


async def other_future() -> None:
    asyncio.get_running_loop().create_future().set_exception(ConnectionRefusedError())


async def task_that_looks_up() -> None:
    await asyncio.wait([asyncio.create_task(asyncio.open_connection(NOWHERE, 4222))])


def test_a_look_up_that_ends_after_its_caller_is_no_error(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "shared.server")
    assert uvloop.run(told_after(connection_given_up)) == "Future exception was never retrieved"
    assert [(record.levelname, record.name) for record in caplog.records] == [("DEBUG", "shared.server")]


@pytest.mark.parametrize("leave_something", [other_future, task_that_looks_up])
def test_everything_else_that_nobody_waits_for_is_an_error(
    leave_something: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
):
    assert "never retrieved" in uvloop.run(told_after(leave_something))
    assert [record.levelname for record in caplog.records] == ["ERROR"]
