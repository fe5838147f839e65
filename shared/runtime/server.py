"""Runs a service under uvicorn, with a graceful shutdown on SIGTERM that loses no request in flight."""

import asyncio
import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn

from shared import logging_config
from shared.observability import tracing
from shared.runtime.responses import OneWriteProtocol
from shared.runtime.settings import ProcessSettings

log = logging.getLogger(__name__)

_GRACE_SECONDS = 10
# Shorter than `stop_grace_period` of docker-compose.yml, which ends with SIGKILL.
_SHUTDOWN_SECONDS = 17.0
# Kept-alive connections that were idle for this many iterations of 10 ms are closed. Iterations instead of a deadline,
# because each one reads all received requests: a process without CPU time closes no connection with an unread request.
_DRAIN_ITERATIONS = 25
_GC_THRESHOLDS = (10_000, 20, 50)


class ShutdownSignal:
    """Set when the process shuts down: long responses end early, and every response closes its connection."""

    now = False


def ignore_abandoned_lookups(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that no caller received, except a failed DNS lookup whose caller has timed out.

    uvloop keeps a lookup running when the connection attempt that needs it times out, as in every outage.
    """
    if isinstance(context.get("exception"), socket.gaierror) and not isinstance(context.get("future"), asyncio.Task):
        log.debug("DNS lookup failed after its caller had timed out: %r", context["exception"])
        return
    loop.default_exception_handler(context)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, shutdown_seconds: float) -> None:
        super().__init__(config)
        self._shutdown_seconds = shutdown_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(ignore_abandoned_lookups)
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        ShutdownSignal.now = True
        # A thread, because the event loop, or its end, may be what is blocked.
        timer = threading.Timer(self._shutdown_seconds, self._abort)
        timer.daemon = True
        timer.start()
        super().handle_exit(sig, frame)

    def _abort(self) -> None:
        """Exit although the shutdown has not finished, e.g. because the database does not respond."""
        tasks = asyncio.all_tasks(self._loop) if self._loop is not None else set()
        running = [(task.get_name(), getattr(task.get_coro(), "__qualname__", "unknown")) for task in tasks]
        names = ", ".join(f"{name} ({coroutine})" for name, coroutine in sorted(running))
        log.error("shutdown not finished after %s s, exiting; unfinished: %s", self._shutdown_seconds, names or "none")
        os._exit(1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close idle connections without losing a request in transit, which its sender would take for a crash."""
        listeners = [
            socket.socket(fileno=os.dup(listener.fileno())) for server in self.servers for listener in server.sockets
        ]
        for server in self.servers:
            server.close()
        # Closed by the event loop in its next round; our duplicates keep the connections that wait to be accepted.
        await asyncio.sleep(0)
        for listener in listeners:
            await self._accept_waiting(listener)
        for _ in range(_DRAIN_ITERATIONS):
            if not self.server_state.connections:
                break
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    async def _accept_waiting(self, listener: socket.socket) -> None:
        """Accept the connections in the kernel's queue, and then no more.

        The kernel queues connections until the listener is closed, and closing it resets those in the queue; no call
        accepts them and closes at once. With a queue of length 0 at most one connection is reset.
        """
        accepted = []
        listener.setblocking(False)
        listener.listen(0)
        with listener, suppress(BlockingIOError):
            while True:
                accepted.append(listener.accept()[0])
        for connection in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        """Return the protocol of a connection, created as uvicorn does."""
        protocol: Any = self.config.http_protocol_class
        connection: asyncio.Protocol = protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return connection


def run(create: Callable[[], Any], settings: ProcessSettings, shutdown_seconds: float = _SHUTDOWN_SECONDS) -> None:
    """Serve the application until SIGTERM or SIGINT: stop accepting, finish requests in flight, exit.

    A shutdown that takes longer than `shutdown_seconds` ends with exit code 1 and an error that names what is running.
    """
    logging_config.configure(
        settings.service, settings.app_version, settings.app_track, settings.log_level, settings.instance
    )
    tracing.start(settings)
    config = uvicorn.Config(
        tracing.traced_app(create()),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=OneWriteProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    log.info("starting on %s:%s", settings.host, settings.port)
    # Objects created so far are permanent: collecting them repeatedly would stall requests for tens of milliseconds.
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    gc.enable()  # disabled since `shared.runtime.sigterm` was imported
    server = _Server(config, shutdown_seconds)
    try:
        server.run()
    except KeyboardInterrupt:
        pass  # uvicorn raises the signal again once everything is shut down
    finally:
        tracing.stop()
    if not server.started:
        sys.exit(3)
