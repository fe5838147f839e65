"""The size limit of Loki's volume."""

import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from shared.observability.log_retention import ChunkFile, chunk_files, deletion_time, enforce

BASE = 1_700_000_000


class FakeLoki(HTTPServer):
    """Records delete requests, as (query, start, end), and responds with `status`."""

    status = 204

    def __init__(self) -> None:
        self.requests: list[tuple[str, ...]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeLoki

    def do_POST(self) -> None:  # pylint: disable=invalid-name  # name of the base class
        """Record the request."""
        url = urlsplit(self.path)
        assert url.path == "/loki/api/v1/delete"
        self.server.requests.append(tuple(parse_qs(url.query)[name][0] for name in ("query", "start", "end")))
        # As Loki: times in seconds have ten digits.
        valid = all(len(time) == 10 for time in self.server.requests[-1][1:])
        self.send_response(self.server.status if valid else 400)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # pylint: disable=redefined-builtin
        """Write no log."""


@pytest.fixture(name="loki")
def fake_loki() -> Iterator[FakeLoki]:
    """A server that stands in for Loki."""
    with FakeLoki() as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def write(folder: Path, *hours: int) -> None:
    """Write a file of 100 bytes for each hour, at which it was changed last."""
    for hour in hours:
        file = folder / "fake" / f"stream-{hour % 3}" / str(hour)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(100))
        os.utime(file, (BASE + hour * 3600, BASE + hour * 3600))


@pytest.mark.parametrize(
    ("limit", "expected"), [(300, None), (299, 1), (200, 1), (199, 2), (100, 2), (99, 3), (0, 3), (10**12, None)]
)
def test_the_newest_files_within_the_limit_stay(limit: int, expected: int | None):
    files = [ChunkFile(modified, 100) for modified in (2.5, 1.5, 3.5)]
    assert deletion_time(files, limit) == expected
    assert deletion_time([], limit) is None


def test_the_oldest_logs_are_deleted_once(loki: FakeLoki, tmp_path: Path):
    write(tmp_path, 1, 2, 3, 4)
    assert enforce(tmp_path, 400, loki.address, 0) == 0 and not loki.requests
    deleted = enforce(tmp_path, 200, loki.address, 0)
    assert deleted == BASE + 2 * 3600 and loki.requests == [('{project=~".+"}', "1000000000", str(BASE + 2 * 3600))]
    # The compactor has not run yet.
    assert enforce(tmp_path, 200, loki.address, deleted) == deleted and len(loki.requests) == 1
    write(tmp_path, 5)
    assert enforce(tmp_path, 200, loki.address, deleted) == BASE + 3 * 3600 and len(loki.requests) == 2


def test_a_failed_request_is_repeated(loki: FakeLoki, tmp_path: Path):
    write(tmp_path, 1, 2)
    loki.status = 500
    assert enforce(tmp_path, 100, loki.address, 0) == 0
    assert enforce(tmp_path, 100, "127.0.0.1:1", 0) == 0
    loki.status = 204
    assert enforce(tmp_path, 100, loki.address, 0) == BASE + 3600 and len(loki.requests) == 2


def test_a_folder_that_does_not_exist_yet_is_empty(tmp_path: Path):
    assert not list(chunk_files(tmp_path / "chunks"))
