"""What one client may take of NGINX, and that the others are served meanwhile."""

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from harness import edge as edge_module
from harness.edge import Edge, running_edge, statuses
from harness.client import eventually

from shared.observability.log_lines import MAX_LINE_BYTES

MakeEdge = Callable[..., Edge]
MAX_BODY = 1024 * 1024


@pytest.fixture
def make_edge(tmp_path: Path) -> Iterator[MakeEdge]:
    """Start an NGINX of one's own: make_edge(nginx_rate_limit="10r/s", …)."""
    with ExitStack() as edges:

        def make(**variables: Any) -> Edge:
            return edges.enter_context(running_edge(tmp_path / "nginx", **variables))

        yield make


def head(length: int | str, path: str = "/api/v1/transfers:batch") -> bytes:
    """Return the head of a POST that announces a length."""
    return f"POST {path} HTTP/1.1\r\nHost: bank\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n".encode()


def problem(answer: str) -> dict[str, Any]:
    """Return the body of an answer that has to be a problem."""
    top, _, body = answer.partition("\r\n\r\n")
    assert "Content-Type: application/problem+json" in top, answer
    document: dict[str, Any] = json.loads(body)
    assert statuses(answer) == [document["status"]]
    return document


def says_when_to_come_again(answer: str) -> bool:
    return "\r\nRetry-After: 1\r\n" in answer


def closed(connection: socket.socket) -> bool:
    """Tell whether the other side has ended the connection."""
    connection.settimeout(0.01)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


_BEGUN = b"GET /api/v1/accounts HTTP/1.1\r\nHost: bank\r\nX-Slow: "


def test_slow_header_clients_block_nobody(make_edge: MakeEdge, monkeypatch: pytest.MonkeyPatch) -> None:
    # No client is disconnected during the test, even on a slow machine.
    render = edge_module.render
    monkeypatch.setattr(
        edge_module, "render", lambda **given: render(**given).replace("header_timeout 10s", "header_timeout 10m")
    )
    edge = make_edge()
    with ExitStack() as crowd:
        slow = [crowd.enter_context(edge.connect()) for _ in range(2500)]
        for connection in slow:
            connection.sendall(_BEGUN)
        for _ in range(4):
            for connection in slow[::50]:
                connection.sendall(b"x")
            assert statuses(edge.get("/api/v1/accounts")) == [201]
        assert not any(closed(connection) for connection in slow[::250])
    assert len(edge.upstream.received) == 4


def test_slow_header_clients_are_disconnected(make_edge: MakeEdge) -> None:
    edge = make_edge()
    with ExitStack() as crowd:
        slow = [crowd.enter_context(edge.connect()) for _ in range(20)]
        for connection in slow:
            connection.sendall(_BEGUN)

        def all_closed() -> bool:
            for connection in slow:
                with suppress(OSError):
                    connection.sendall(b"x")
            return all(closed(connection) for connection in slow)

        eventually(all_closed, every=0.5)
    assert edge.upstream.received == []


def test_slow_bodies_never_reach_a_service(make_edge: MakeEdge) -> None:
    edge = make_edge()
    with ExitStack() as crowd:
        slow = [crowd.enter_context(edge.connect()) for _ in range(300)]
        for connection in slow:
            connection.sendall(head(1000, "/api/v1/transfers") + b"{")
        for _ in range(4):
            assert statuses(edge.get("/api/v1/accounts")) == [201]
        assert {one.method for one in edge.upstream.received} == {"GET"}, "a body that is not whole holds no replica"
        eventually(lambda: all(closed(connection) for connection in slow[::20]))


@pytest.mark.parametrize("chunked", [False, True])
def test_an_oversized_body_is_rejected(make_edge: MakeEdge, chunked: bool) -> None:
    edge = make_edge()
    if chunked:
        piece = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        top = (
            b"POST /api/v1/transfers HTTP/1.1\r\nHost: bank\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        answer = edge.send(top + piece * (MAX_BODY // 0x8000 + 1))
    else:
        answer = edge.send(head(MAX_BODY + 1))
    assert problem(answer)["code"] == "payload-too-large" and edge.upstream.received == []
    assert statuses(edge.send(head(MAX_BODY) + b"x" * MAX_BODY)) == [201]
    assert len(edge.upstream.received[0].body) == MAX_BODY


def test_concurrent_large_bodies_are_limited_and_small_ones_are_served(make_edge: MakeEdge) -> None:
    edge = make_edge(nginx_max_large_bodies=4)
    with ExitStack() as crowd:
        lengths = [
            *(f"Content-Length: {length}" for length in (16_000, 20_000, MAX_BODY)),
            "Transfer-Encoding: chunked",
        ]
        for length in lengths:
            connection = crowd.enter_context(edge.connect())
            top = f"POST /api/v1/transfers:batch HTTP/1.1\r\nHost: bank\r\n{length}\r\nExpect: 100-continue\r\n\r\n"
            connection.sendall(top.encode())
            # NGINX has counted the request: it waits for the body.
            assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")

        answer = edge.send(head(100_000) + b"x" * 100_000)
        assert problem(answer)["code"] == "unavailable" and says_when_to_come_again(answer)
        assert statuses(edge.send(head(15_999) + b"x" * 15_999)) == [201]
        assert statuses(edge.get("/api/v1/accounts")) == [201]
    eventually(lambda: statuses(edge.send(head(100_000) + b"x" * 100_000)) == [201])


def test_rate_limits_are_per_client_and_cannot_be_evaded(make_edge: MakeEdge) -> None:
    edge = make_edge(nginx_rate_limit="1r/m", nginx_rate_limit_burst=5)
    begun = time.monotonic()
    answers = [edge.get("/api/v1/accounts", f"X-Forwarded-For: 9.9.9.{n}", f"X-Client-ID: {n}") for n in range(20)]
    allowed = 6 + (time.monotonic() - begun) / 60
    found = Counter(status for answer in answers for status in statuses(answer))
    assert 5 <= found[201] <= allowed + 1 and found[201] + found[429] == 20
    refused = next(answer for answer in answers if statuses(answer) == [429])
    assert problem(refused)["code"] == "rate-limited" and says_when_to_come_again(refused)
    assert len(edge.upstream.received) == found[201]
    assert statuses(edge.get("/api/v1/accounts", source="127.0.0.2")) == [201], "somebody else's rate is his own"


def test_the_query_of_a_rejected_request_is_not_logged(make_edge: MakeEdge) -> None:
    edge = make_edge(nginx_rate_limit="5r/s", nginx_rate_limit_burst=5)
    secret = "hunter2hunter2"
    for path in ("/", "/nowhere", "/api/v1/accounts", "/docs/account-service/", "/metrics"):
        edge.send(head(MAX_BODY + 1, f"{path}?access_token={secret}"))
        for _ in range(4):
            edge.get(f"{path}?access_token={secret}", f"Authorization: Bearer {secret}", f"Referer: http://x/?{secret}")
    edge.send(f"GET /x?{secret} HTTP/1.1\r\nHost: a b\r\n\r\n".encode())
    eventually(lambda: len((edge.folder / "access.log").read_text().splitlines()) >= 20)
    assert all(secret not in file.read_text() for file in edge.folder.glob("*.log"))


def test_requests_above_the_in_flight_limit_are_rejected_until_load_drops(make_edge: MakeEdge) -> None:
    # And one more, for when the replica is taken for broken.
    edge, limit = make_edge(nginx_max_in_flight=12), 13
    edge.upstream.open.clear()
    with ThreadPoolExecutor(limit) as pool:
        taken = [pool.submit(edge.get, "/api/v1/transactions") for _ in range(limit)]
        eventually(lambda: len(edge.upstream.received) == limit)
        answers = [edge.get("/api/v1/transactions") for _ in range(10)]
        for answer in answers:
            assert problem(answer)["code"] == "unavailable" and says_when_to_come_again(answer)
        assert len(edge.upstream.received) == limit
        edge.upstream.open.set()
        assert [statuses(one.result()) for one in taken] == [[201]] * limit
    assert [statuses(edge.get("/api/v1/transactions")) for _ in range(5)] == [[201]] * 5


def test_no_log_line_is_longer_than_docker_keeps_whole(make_edge: MakeEdge) -> None:
    edge = make_edge()
    values = [
        part * (7_500 // len(part)) for part in (b'"', b"\\", b"\x01", "é".encode(), "€".encode(), b"\xff", b"\x80")
    ]
    for value in values:
        edge.upstream.headers = b"X-App-Track: %s\r\nX-App-Version: %s\r\n" % (value, value)
        for path in (b"/api/v1/accounts/x" + value, b"/api/v1/accounts"):
            edge.send(b"GET %s HTTP/1.1\r\nHost: bank\r\nUser-Agent: agent %s\r\n\r\n" % (path, value))
    edge.send(b"A" * 7_500 + b" /api/v1/accounts HTTP/1.1\r\nHost: bank\r\n\r\n")
    edge.get("/nowhere", "User-Agent: last")
    log = edge.folder / "access.log"
    eventually(lambda: b'"user_agent":"last"' in log.read_bytes())
    lines = log.read_bytes().splitlines(keepends=True)
    assert max(len(line) for line in lines) <= MAX_LINE_BYTES
    # Docker replaces what is no UTF-8.
    entries = [json.loads(line.decode(errors="replace")) for line in lines]
    assert {"A" * 16, "GET"} <= {entry["method"] for entry in entries}
    # Whole characters, and as many as there is space for.
    assert {"agent " + "é" * 253, "agent " + "€" * 168} <= {entry["user_agent"] for entry in entries}
    assert {128, 64} <= {len(entry["version"]) for entry in entries}
