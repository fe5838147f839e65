"""NGINX with the project's configuration, in front of an upstream that records every byte it receives."""

import json
import re
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.client import REQUEST_SECONDS, eventually

from shared.testing.ports import free_port
from shared.testing.processes import Process, stop_all
from shared.testing.nginx_config import render

_IDLE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Received:
    """A request as the upstream received it; header names are in lower case, each with all of its values."""

    method: str
    target: str
    headers: dict[str, list[str]]
    body: bytes


@dataclass
class Upstream:
    """Parses requests strictly (RFC 9112), records them and responds 201 with `headers`.

    Responses wait while `open` is not set.
    """

    received: list[Received] = field(default_factory=list)
    broken: list[bytes] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    headers: bytes = b""

    def serve(self, listener: socket.socket) -> None:
        """Serve connections until the listener is closed."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while head := _head(stream):
                request = _parse(head, stream)
                if request is None:
                    self.broken.append(head)
                    return
                self.received.append(request)
                self.open.wait(REQUEST_SECONDS)
                content = json.dumps({"target": request.target}).encode()
                head = b"HTTP/1.1 201 Created\r\n%sContent-Length: %d\r\n\r\n" % (self.headers, len(content))
                try:
                    connection.sendall(head + content)
                except OSError:
                    return


def _head(stream: Any) -> bytes:
    lines = []
    while (line := stream.readline()) not in (b"\r\n", b"\n", b""):
        lines.append(line)
    return b"".join(lines)


def _parse(head: bytes, stream: Any) -> Received | None:
    """Return the request, or None if another parser might interpret it differently."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-1]
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            return None
        headers.setdefault(name.lower(), []).append(value.strip())
    parts = first.split(" ")
    lengths = headers.get("content-length", ["0"])
    if len(parts) != 3 or "transfer-encoding" in headers or len(lengths) != 1 or not lengths[0].isdigit():
        return None
    return Received(parts[0], parts[1], headers, stream.read(int(lengths[0])))


@dataclass
class Edge:
    """A running NGINX and its upstream."""

    port: int
    upstream: Upstream
    folder: Path

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """Open a connection from an address of this host."""
        return socket.create_connection(("127.0.0.1", self.port), REQUEST_SECONDS, (source, 0))

    def send(self, request: bytes, source: str = "127.0.0.1", expected: int = 1) -> str:
        """Send raw bytes on a new connection; return everything received until it is closed.

        An idle connection also ends it after the expected number of whole responses.
        """
        with self.connect(source) as connection:
            connection.sendall(request)
            answer = b""
            try:
                while chunk := connection.recv(65536):
                    answer += chunk
                    if _responses(answer) >= expected:
                        # Kept open for a next request, or about to be closed.
                        connection.settimeout(_IDLE_SECONDS)
            except (TimeoutError, ConnectionResetError):
                pass  # idle, or closed with something unread
            return answer.decode("latin-1")

    def get(self, path: str, *headers: str, source: str = "127.0.0.1") -> str:
        """Request a path, sent unchanged, and return the response."""
        lines = [f"GET {path} HTTP/1.1", "Host: bank", *headers, "Connection: close", "", ""]
        return self.send("\r\n".join(lines).encode("latin-1"), source)

    def last(self) -> Received:
        """Return the last request that the upstream received."""
        return self.upstream.received[-1]


def _responses(answer: bytes) -> int:
    """Return the number of whole responses at the beginning of what came back."""
    count = 0
    while True:
        head, end, answer = answer.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        if not end or len(answer) < (size := int(length[1]) if length else 0):
            return count
        count, answer = count + 1, answer[size:]


def statuses(answer: str) -> list[int]:
    """Return the statuses of all responses in the received bytes."""
    return [int(status) for status in re.findall(r"HTTP/1\.1 (\d{3}) ", answer)]


@contextmanager
def running_edge(folder: Path, **variables: Any) -> Iterator[Edge]:
    """Start NGINX from the project's template, with some variables set."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert program is not None
    upstream, listener = Upstream(), socket.create_server(("127.0.0.1", 0), backlog=512)
    upstream.open.set()
    threading.Thread(target=upstream.serve, args=(listener,), daemon=True).start()
    pool = [f"127.0.0.1:{listener.getsockname()[1]}"]
    edge = Edge(free_port(), upstream, folder)
    (folder / "temp").mkdir(parents=True)
    configuration = render(
        **{
            "nginx_listen": f"127.0.0.1:{edge.port}",
            "nginx_pools": {"account-service": pool, "transaction-service": pool},
            **variables,
        }
    )
    (folder / "nginx.conf").write_text(configuration, encoding="utf-8")
    command = [program, "-p", f"{folder}/", "-c", "nginx.conf", "-e", f"{folder}/error.log", "-g", "daemon off;"]
    nginx = Process("nginx", command, folder / "nginx.log", stop_signal=signal.SIGTERM, orphan_signal=signal.SIGTERM)
    nginx.start()

    def answers() -> bool:
        try:
            # Without a response if NGINX expects the PROXY protocol.
            edge.get("/nowhere")
            return True
        except OSError:
            return False

    try:
        eventually(answers)
        yield edge
    finally:
        upstream.open.set()
        stop_all([nginx])
        listener.close()
