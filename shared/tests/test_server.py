"""Graceful shutdown of a service, and its handling of exceptions that no caller receives."""

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest
import uvloop

from shared.testing.ports import free_port
from shared.testing.paths import ROOT
from shared.runtime.responses import OneWriteTransport
from shared.runtime.server import _DRAIN_ITERATIONS, ignore_abandoned_lookups
from shared.testing.timing import BUSY_SECONDS

UNKNOWN_HOST = "nobody-has-this-name.invalid"


async def unhandled_error(abandon: Callable[[], Awaitable[None]]) -> str:
    """Run a function that leaves a failed future behind; return the message that the loop's handler received."""
    contexts: list[dict[str, Any]] = []

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        ignore_abandoned_lookups(loop, context)
        contexts.append(context)

    asyncio.get_running_loop().set_exception_handler(handler)
    await abandon()
    async with asyncio.timeout(2 * BUSY_SECONDS):  # where no resolver answers, a lookup takes half a minute
        while not contexts:
            await asyncio.sleep(0.05)
            gc.collect()
    (context,) = contexts
    return str(context["message"])


async def cancelled_connection() -> None:
    connecting = asyncio.ensure_future(asyncio.open_connection(UNKNOWN_HOST, 4222))
    await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait([connecting])
    assert connecting.cancelled()


async def abandoned_future() -> None:
    asyncio.get_running_loop().create_future().set_exception(ConnectionRefusedError())


async def abandoned_task() -> None:
    await asyncio.wait([asyncio.create_task(asyncio.open_connection(UNKNOWN_HOST, 4222))])


def test_a_lookup_that_fails_after_its_caller_is_no_error(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG, "shared.runtime.server")
    assert uvloop.run(unhandled_error(cancelled_connection)) == "Future exception was never retrieved"
    assert [(record.levelname, record.name) for record in caplog.records] == [("DEBUG", "shared.runtime.server")]


@pytest.mark.parametrize("abandon", [abandoned_future, abandoned_task])
def test_other_exceptions_without_a_caller_are_errors(
    abandon: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
):
    assert "never retrieved" in uvloop.run(unhandled_error(abandon))
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# Reads ports, serves on each in a process of its own, and prints the process id and, once it has ended, its exit code.
_SERVICE = """
import os, sys
from contextlib import asynccontextmanager
from shared.http import web
from shared.runtime import server
from shared.runtime.settings import ProcessSettings

@asynccontextmanager
async def lifespan(app):
    yield

def serve(port):
    settings = ProcessSettings(service="stopping", port=port, auth_jwks="http://issuer", access_log=False)
    app = web.create_app(settings, "", routes=[], internal_routes=[], checks=dict, lifespan=lifespan)
    server.run(lambda: app, settings)

for port in sys.stdin:
    if not (child := os.fork()):
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        serve(int(port))
        sys.exit()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
# Each iteration takes at least 10 ms.
_DRAIN_SECONDS = _DRAIN_ITERATIONS / 100
_REQUEST = b"GET /health/live HTTP/1.1\r\nHost: bank\r\n\r\n"


class Clients:
    """Clients that send requests, with pauses up to 0.15 s, on kept-alive connections until none can be opened."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.refused = self.answered = 0
        # Connections that were closed on a request of a client that has kept its pace.
        self.cut_off: list[tuple[int, str]] = []

    async def run(self) -> None:
        """Send requests until each client has been refused."""
        await asyncio.gather(*(self._until_refused(number / 100) for number in range(16)))

    async def _until_refused(self, pause: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionError:  # refused, or reset in the handshake: no request was sent
                self.refused += 1
                return
            responses, idle = 0, 0.0
            try:
                while True:
                    sending = loop.time()
                    writer.write(_REQUEST)
                    since, idle = sending, loop.time() - since
                    if not await self._answer(reader):
                        break
                    responses += 1
                    self.answered += 1
                    await asyncio.sleep(pause)
            except (OSError, asyncio.IncompleteReadError) as error:
                # A connection without a request for that long is closed; a client of a busy machine may be too late.
                if idle < _DRAIN_SECONDS:
                    self.cut_off.append((responses, repr(error)))
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bool:
        """Read an answer and tell whether the connection stays open after it."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        return b"connection: close" not in head


def connected(port: int) -> socket.socket:
    """Return a connection to a service that may still be starting."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), BUSY_SECONDS)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


async def stop_under_load(service: subprocess.Popen[str], starved: float = 0) -> tuple[Clients, int]:
    """Serve, stop in the middle of requests, and return what the clients saw and the exit code.

    `starved` is for how many seconds the process then gets no CPU time.
    """
    assert service.stdin is not None and service.stdout is not None
    clients = Clients(free_port())
    print(clients.port, file=service.stdin, flush=True)
    process = int(service.stdout.readline())
    await asyncio.to_thread(lambda: connected(clients.port).close())
    running = asyncio.create_task(clients.run())
    while clients.answered < 100:
        await asyncio.sleep(0.01)
    os.kill(process, signal.SIGTERM)
    if starved:
        await asyncio.sleep(0.1)
        # On a busy machine it may have ended by now.
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
            await asyncio.sleep(starved)
            os.kill(process, signal.SIGCONT)
    await running
    return clients, int(service.stdout.readline())


def test_a_process_that_stops_answers_every_request_that_it_has_been_sent() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", _SERVICE], cwd=ROOT, text=True, **pipes) as service:
        for starved in (0, 0, 0, 0.4, 0.4):
            clients, exit_code = asyncio.run(stop_under_load(service, starved))
            assert clients.refused == 16
            # One may be in the kernel's queue when the listener is closed (see _accept_waiting).
            assert clients.cut_off in ([], [(0, ANY)]), clients.cut_off
            assert exit_code in (0, -signal.SIGTERM)
        service.stdin.close()


def test_a_response_is_one_write() -> None:
    """A process killed between headers and body must not leave half a response, which a proxy cannot retry."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", _SERVICE], cwd=ROOT, text=True, **pipes) as service:
        assert service.stdin is not None and service.stdout is not None
        port = free_port()
        print(port, file=service.stdin, flush=True)
        process = int(service.stdout.readline())
        with connected(port) as connection:
            received = []
            for _ in range(100):
                connection.sendall(_REQUEST)
                received.append(connection.recv(65536))
            connection.sendall(_REQUEST.replace(b"GET", b"HEAD"))
            received.append(connection.recv(65536))
        os.kill(process, signal.SIGTERM)
        service.stdout.readline()
        service.stdin.close()
    bodies = [response.partition(b"\r\n\r\n")[2] for response in received]
    assert all(body.startswith(b"{") for body in bodies[:100]), bodies
    assert bodies[100] == b"" and received[100].endswith(b"\r\n\r\n")


async def test_headers_without_a_body_and_large_bodies_are_sent_in_order() -> None:
    sent: list[bytes] = []
    wrapped = SimpleNamespace(write=lambda data: sent.append(bytes(data)), close=lambda: sent.append(b"closed"))
    transport = OneWriteTransport(wrapped, asyncio.get_running_loop())  # type: ignore[arg-type]
    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert not sent
    await asyncio.sleep(0)
    assert sent == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    transport.write(b"HTTP/1.1 200 OK\r\n\r\n")
    transport.write(b"one")
    transport.write(b"two")
    assert sent[1:] == [b"HTTP/1.1 200 OK\r\n\r\none", b"two"]
    transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    transport.close()
    assert sent[3:] == [b"HTTP/1.1 204 No Content\r\n\r\n", b"closed"]
    await asyncio.sleep(0)
    assert len(sent) == 5


def test_garbage_is_collected_from_the_moment_a_service_serves() -> None:
    code = (
        "from shared.runtime import sigterm, server; import gc; assert not gc.isenabled();"
        "server._Server.run = lambda self: print(gc.isenabled(), gc.get_freeze_count() > 1000, flush=True);"
        "from shared.runtime.settings import ProcessSettings;"
        "settings = ProcessSettings(service='x', port=1, auth_jwks='http://issuer'); server.run(lambda: None, settings)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "True True", done.stderr


def test_a_process_that_starts_ends_on_sigterm_by_itself() -> None:
    """By a handler: PID 1 of a container ignores a signal that is left to its default."""
    code = "from shared.runtime import sigterm; import time; print(1, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(BUSY_SECONDS) == 128 + signal.SIGTERM


@pytest.mark.parametrize("shutdown", ["await asyncio.Event().wait()", "time.sleep(600)"], ids=["waits", "blocks"])
def test_a_shutdown_that_does_not_finish_is_aborted(shutdown: str) -> None:
    """Before the container is killed; the log says what was running."""
    code = f"""
import asyncio, time
from contextlib import asynccontextmanager
from shared.http import web
from shared.runtime import server
from shared.runtime.settings import ProcessSettings

@asynccontextmanager
async def lifespan(app):
    task = asyncio.create_task(asyncio.Event().wait(), name="relay")
    yield
    {shutdown}

settings = ProcessSettings(service="stopping", port={(port := free_port())}, auth_jwks="http://issuer")
app = web.create_app(settings, "", routes=[], internal_routes=[], checks=dict, lifespan=lifespan)
server.run(lambda: app, settings, 0.5)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        connected(port).close()
        process.terminate()
        output, _ = process.communicate(timeout=BUSY_SECONDS)
    assert process.returncode == 1
    (error,) = [line for line in map(json.loads, output.splitlines()) if line["level"] == "ERROR"]
    assert error["message"].startswith("shutdown not finished after 0.5 s, exiting; unfinished: ")
    assert "relay (Event.wait)" in error["message"]


@pytest.mark.parametrize("service", ["account", "transaction", "autoscale", "rollout"])
def test_every_service_is_ready_for_sigterm_before_it_imports_anything_else(service: str) -> None:
    lines = (ROOT / f"{service}-service/app/__main__.py").read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if line.startswith(("from ", "import ")))
    assert first.startswith("from shared.runtime import sigterm")
