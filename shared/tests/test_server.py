"""How a service's process stops, and what it says of things that nobody waits for."""

import asyncio
import gc
import http.client
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from shared.testing.ports import free_port
from shared.testing.paths import ROOT
from shared.runtime.server import without_forsaken_lookups

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
    caplog.set_level(logging.DEBUG, "shared.runtime.server")
    assert uvloop.run(told_after(connection_given_up)) == "Future exception was never retrieved"
    assert [(record.levelname, record.name) for record in caplog.records] == [("DEBUG", "shared.runtime.server")]


@pytest.mark.parametrize("leave_something", [other_future, task_that_looks_up])
def test_everything_else_that_nobody_waits_for_is_an_error(
    leave_something: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
):
    assert "never retrieved" in uvloop.run(told_after(leave_something))
    assert [record.levelname for record in caplog.records] == ["ERROR"]


_SERVICE = """
import sys
from contextlib import asynccontextmanager
from shared.http import web
from shared.runtime import server
from shared.runtime.settings import ProcessSettings

@asynccontextmanager
async def lifespan(app):
    yield

settings = ProcessSettings(service="stopping", port=int(sys.argv[1]), auth_jwks="http://issuer", access_log=False)
app = web.create_app(settings, "", routes=[], internal_routes=[], checks=dict, lifespan=lifespan)
server.run(lambda: app, settings)
"""


def _ask_until_refused(port: int, refused: list[bool], cut_off: list[str], answered: list[int]) -> None:
    """Send requests on kept-alive connections until no connection can be opened."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.connect()
        except ConnectionRefusedError:
            refused.append(True)
            return
        except OSError as error:
            cut_off.append(f"connecting: {error!r}")
            return
        try:
            while True:
                connection.request("GET", "/health/live")
                response = connection.getresponse()
                response.read()
                answered.append(response.status)
                if response.will_close:
                    break
        except (OSError, http.client.HTTPException) as error:
            cut_off.append(repr(error))
        finally:
            connection.close()


def _wait_for(port: int) -> None:
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    pytest.fail("the process did not start")


def test_a_process_that_stops_answers_every_request_that_it_has_been_sent() -> None:
    for _ in range(5):
        port = free_port()
        command = [sys.executable, "-c", _SERVICE, str(port)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                _wait_for(port)
                refused: list[bool] = []
                cut_off: list[str] = []
                answered: list[int] = []
                clients = [
                    threading.Thread(target=_ask_until_refused, args=(port, refused, cut_off, answered))
                    for _ in range(16)
                ]
                for client in clients:
                    client.start()
                time.sleep(0.3)
                process.send_signal(signal.SIGTERM)
                for client in clients:
                    client.join(20)
                assert process.wait(20) in (0, -signal.SIGTERM), process.returncode
            finally:
                process.kill()
        # One may come between the last look at the listener and its end; without the drain many do.
        assert len(refused) + len(cut_off) >= 16 and answered and len(cut_off) <= 4, cut_off


def test_a_process_that_starts_ends_on_sigterm_by_itself() -> None:
    """By a handler: PID 1 of a container ignores a signal that is left to its default."""
    code = "from shared.runtime import sigterm; import time; print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.parametrize("service", ["account", "transaction", "autoscale", "rollout"])
def test_every_service_is_ready_for_sigterm_before_it_imports_anything_else(service: str) -> None:
    lines = (ROOT / f"{service}-service/app/__main__.py").read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if line.startswith(("from ", "import ")))
    assert first.startswith("from shared.runtime import sigterm")
