"""A fake replica that responds to every request with one status and echoes the request."""

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

# Maps method, path and headers to the status of the response.
Behaviour = Callable[[str, str, Any], int]


def always(status: int) -> Behaviour:
    """Respond to every request with the same status."""
    return lambda method, path, headers: status


@dataclass
class Replica:
    """A running replica: its address, and the requests it has received as (method, path, X-Canary-Status)."""

    address: str
    received: list[tuple[str, str, str]] = field(default_factory=list)


@contextmanager
def running_replica(track: str, behaviour: Behaviour) -> Iterator[Replica]:
    """Serve on a free port over kept-alive connections. With a status above 999, respond before reading the body."""

    class Handler(http.server.BaseHTTPRequestHandler):
        """Handles the requests of one connection."""

        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def answer(self) -> None:
            """Respond with the status, and with method, path and digest of the body."""
            replica.received.append((self.command, self.path, self.headers.get("X-Canary-Status", "")))
            status = behaviour(self.command, self.path, self.headers)
            early = status > 999
            body = b"" if early else self.rfile.read(int(self.headers.get("Content-Length", 0)))
            echo = {"method": self.command, "path": self.path, "body": hashlib.sha256(body).hexdigest()}
            content = json.dumps(echo).encode()
            self.close_connection = early
            self.send_response(status % 1000)
            self.send_header("X-App-Track", track)
            if status % 1000 == 401:
                self.send_header("WWW-Authenticate", f'Bearer realm="{track}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if self.command != "HEAD" else b"")

        do_GET = do_POST = do_HEAD = answer  # noqa: N815  # names of the base class

        def log_message(self, format: str, *args: Any) -> None:  # pylint: disable=redefined-builtin
            """Write no log."""

    class Server(http.server.ThreadingHTTPServer):
        """Accepts many connections at once."""

        request_queue_size = 512

    server = Server(("127.0.0.1", 0), Handler)
    replica = Replica(f"127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield replica
    finally:
        server.shutdown()
        server.server_close()
