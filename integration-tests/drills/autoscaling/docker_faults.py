"""A proxy in front of Docker's socket that forwards all calls, except those for which an error is injected."""

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

ENGINE = "/var/run/docker.sock"


@dataclass(frozen=True, slots=True)
class InjectedError:
    """An error response to matching calls; `calls` is a regular expression on e.g. `POST /containers/…/start`."""

    calls: str
    status: int
    message: str


class _Engine(http.client.HTTPConnection):
    """A connection to the Docker Engine."""

    def __init__(self) -> None:
        super().__init__("docker")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(ENGINE)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FaultyDocker"

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        error = self.server.injected_error
        if error and re.search(error.calls, f"{self.command} {self.path.partition('?')[0]}"):
            status, content = error.status, b'{"message": "%s"}' % error.message.encode()
        else:
            engine = _Engine()
            headers = {"Content-Type": "application/json"} if body else {}
            engine.request(self.command, self.path, body or None, headers)
            response = engine.getresponse()
            status, content = response.status, response.read()
            engine.close()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _respond

    def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
        """Log nothing."""


class FaultyDocker(ThreadingMixIn, UnixStreamServer):
    """The proxy, listening on its own socket."""

    daemon_threads = True
    injected_error: InjectedError | None = None


@contextmanager
def faulty_docker(path: Path) -> Iterator[FaultyDocker]:
    """Run the proxy while the block runs."""
    with FaultyDocker(str(path), _Handler) as server:
        path.chmod(0o666)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
