"""The health check of containers: its exit code and output, and that it stays cheap."""

import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

import pytest

from shared.runtime import healthcheck
from shared.testing.ports import free_port


def _check(port: int | str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", *options, healthcheck.__file__]
    return subprocess.run(command, env={"PORT": str(port)}, capture_output=True, text=True, check=False)


@contextmanager
def _service(parts: Sequence[bytes]) -> Iterator[int]:
    """A service that answers one request with these parts, a packet each."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(65536).startswith(b"GET /health/ready HTTP/1.1\r\n")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for part in parts:
                    connection.sendall(part)

        thread = Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    "parts, code, output",
    [
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n", b'{"status":"ready"}'), 0, '{"status":"ready"}\n'),
        ((b"HTTP/1.1 503 Service Unavailable\r\n\r\nstarting",), 1, "starting\n"),
        ((b"HTTP/1.1 2",), 1, "HTTP/1.1 2\n"),
        ((), 1, "\n"),
    ],
)
def test_only_200_is_ready(parts: tuple[bytes, ...], code: int, output: str) -> None:
    with _service(parts) as port:
        done = _check(port)
    assert (done.returncode, done.stdout, done.stderr) == (code, output, "")


@pytest.mark.parametrize("port", ["unused", "http"])
def test_a_service_that_cannot_be_reached_is_not_ready(port: str) -> None:
    done = _check(free_port() if port == "unused" else port)
    assert done.returncode == 1 and done.stdout.startswith("no response: ") and done.stderr == ""


def test_it_does_not_import_the_socket_module() -> None:
    """Its import takes longer than the check, which runs every few seconds in each replica."""
    imported = _check(free_port(), "-X", "importtime").stderr
    assert "| _socket\n" in imported and "| socket\n" not in imported
