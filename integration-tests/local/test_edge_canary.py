"""A canary that refuses what stable accepts: its clients get stable's response (docs/adr/0016)."""

import hashlib
import http.client
import json
import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import edge as edge_module
from harness.client import REQUEST_SECONDS, eventually
from harness.edge import Edge, running_edge, statuses
from harness.local_stack import LocalBank
from harness.replica import Behaviour, Replica, always, running_replica

from shared.testing.ports import free_port

SERVICES = ("account-service", "transaction-service")
MAX_BODY = 1024 * 1024
BODIES = (b"", b"{}", b"x" * 15_000, b"y" * 40_000, b"z" * MAX_BODY)


@dataclass
class Tracks:
    """NGINX before one canary, which gets all clients, and one stable replica."""

    edge: Edge
    stable: Replica
    canary: Replica
    connections: ExitStack

    def connect(self) -> http.client.HTTPConnection:
        """Return a new connection to NGINX, which is closed at the end of the test."""
        connection = http.client.HTTPConnection("127.0.0.1", self.edge.port, timeout=REQUEST_SECONDS)
        return self.connections.enter_context(closing(connection))

    def logged(self, path: str) -> dict[str, Any]:
        """Return the line of the access log about a path, once it is there."""
        log = self.edge.folder / "access.log"
        lines = eventually(lambda: [line for line in log.read_text("utf-8").splitlines() if f'"{path}"' in line])
        entry: dict[str, Any] = json.loads(lines[-1])
        return entry


MakeTracks = Callable[..., Tracks]


@pytest.fixture
def make_tracks(tmp_path: Path) -> Iterator[MakeTracks]:
    """Start NGINX and two replicas: make_tracks(behaviour of the canary, behaviour of stable)."""
    with ExitStack() as stack:

        def make(canary: Behaviour, stable: Behaviour = always(201), **variables: Any) -> Tracks:
            pools = [
                stack.enter_context(running_replica(name, one))
                for name, one in (("stable", stable), ("canary", canary))
            ]
            given = {
                "nginx_pools": {name: [pools[0].address] for name in SERVICES},
                "nginx_canary_pools": {name: [pools[1].address] for name in SERVICES},
                "nginx_canary_weight": 100,
                **variables,
            }
            edge = stack.enter_context(running_edge(tmp_path / "nginx", nginx_worker_processes=1, **given))
            return Tracks(edge, *pools, stack)

        yield make


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def track(self) -> str | None:
        """Which track responded."""
        return self.headers["X-App-Track"]


def ask(
    connection: http.client.HTTPConnection,
    method: str = "GET",
    path: str = "/api/v1/accounts",
    body: bytes = b"",
    **headers: str,
) -> Answer:
    """Send a request on a connection; `headers` have underscores for dashes."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body or None, {"Idempotency-Key": "key", **given} if method == "POST" else given)
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())


def status_in_path(_method: str, path: str, _headers: Any) -> int:
    """Answer with the status at the end of the path."""
    return int(path.rpartition("/")[2])


def test_whatever_is_not_a_success_is_asked_once_of_stable(make_tracks: MakeTracks) -> None:
    tracks = make_tracks(status_in_path)
    connection = tracks.connect()
    refusals = [status for status in range(300, 600) if status not in (408, 444, 499)]
    for status in refusals:
        for method in ("GET", "POST"):
            response = ask(connection, method, f"/api/v1/accounts/{status}")
            assert (response.status, response.track, json.loads(response.body)["method"]) == (
                201,
                "stable",
                method,
            ), status
            assert response.headers["WWW-Authenticate"] is None
    expected = [(m, f"/api/v1/accounts/{s}", str(s)) for s in refusals for m in ("GET", "POST")]
    assert tracks.stable.received == expected
    for status in (200, 201, 202, 204):
        assert ask(connection, "GET", f"/api/v1/accounts/{status}").track == "canary"
    assert tracks.stable.received == expected
    retried, direct = tracks.logged("/api/v1/accounts/404"), tracks.logged("/api/v1/accounts/202")
    fields = ("canary_status", "upstream_status", "status", "track")
    assert [retried[name] for name in fields] == ["404", "404 : 201", 201, "stable"]
    assert [direct[name] for name in fields] == ["202", "202", 202, "canary"]


@pytest.mark.parametrize("canary", ["401", "404", "413 before the body is read", "every other one 404"])
def test_a_canary_that_refuses_everything_costs_no_request(make_tracks: MakeTracks, canary: str) -> None:
    asked = iter(range(10**9))
    behaviours: dict[str, Behaviour] = {
        "413 before the body is read": always(1413),
        "every other one 404": lambda *_: 404 if next(asked) % 2 else 201,
    }
    tracks = make_tracks(behaviours[canary] if canary in behaviours else always(int(canary)))
    clients, requests = 8, 150

    def work(client: int) -> int:
        connection = tracks.connect()
        for number in range(requests):
            # Large bodies are few, because NGINX admits 32 at a time.
            body = BODIES[number % 3 if number % 25 else 3 + client % 2]
            method = ("GET", "POST", "HEAD")[number % 3] if not body else "POST"
            path = f"/api/v1/transfers?client={client}&number={number}"
            response = ask(connection, method, path, body)
            assert response.status == 201, response
            echo = {"method": method, "path": path, "body": hashlib.sha256(body).hexdigest()}
            assert response.body == b"" if method == "HEAD" else json.loads(response.body) == echo
        return requests

    with ThreadPoolExecutor(clients) as pool:
        assert sum(pool.map(work, range(clients))) == clients * requests
    assert len(tracks.canary.received) == clients * requests
    refused = sum(status != "" for _, _, status in tracks.stable.received)
    assert refused == len(tracks.stable.received) == clients * requests // (2 if "other" in canary else 1)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422, 429, 500, 503])
def test_the_response_of_stable_is_passed_on_unchanged(make_tracks: MakeTracks, status: int) -> None:
    tracks = make_tracks(always(status), always(status))
    response = ask(tracks.connect(), "POST", body=b"{}")
    assert (response.status, response.track, response.headers.get_all("X-App-Track")) == (status, "stable", ["stable"])
    assert json.loads(response.body)["method"] == "POST"
    assert response.headers.get_all("WWW-Authenticate") == (['Bearer realm="stable"'] if status == 401 else None)
    assert len(tracks.canary.received) == len(tracks.stable.received) == 1


def test_testers_get_the_response_of_the_canary(make_tracks: MakeTracks) -> None:
    tracks = make_tracks(status_in_path)
    for status in (200, 401, 404, 500, 503):
        response = ask(tracks.connect(), "GET", f"/api/v1/accounts/{status}", X_Canary="always")
        assert (response.status, response.track) == (status, "canary")
        response = ask(tracks.connect(), "GET", f"/api/v1/accounts/{status}", X_Canary="never")
        assert (response.status, response.track) == (201, "stable")
    assert {status for _, _, status in tracks.stable.received} == {""}


class Silent(socketserver.BaseRequestHandler):
    """Reads a request and closes the connection, responds with an invalid header, or waits, as the path says."""

    def handle(self) -> None:
        """Handle a connection."""
        given = self.request.recv(65536)
        if b"nonsense" in given:
            self.request.sendall(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n")
        elif b"hang" in given:
            # Until NGINX closes the connection.
            self.request.recv(1)


def test_stable_is_told_whether_a_canary_was_connected(
    make_tracks: MakeTracks, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = edge_module.render
    monkeypatch.setattr(edge_module, "render", lambda **given: render(**given).replace("timeout 5s", "timeout 200ms"))
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as silent:
        threading.Thread(target=silent.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        address = f"127.0.0.1:{silent.server_address[1]}"
        pools = {"account-service": [address], "transaction-service": [f"127.0.0.1:{free_port()}"]}
        tracks = make_tracks(always(201), nginx_canary_pools=pools)
        for path in ("accounts/close", "accounts/nonsense", "accounts/hang", "transactions"):
            response = ask(tracks.connect(), "GET", f"/api/v1/{path}")
            assert (response.status, response.track) == (201, "stable"), path
        silent.shutdown()
    assert [status for _, _, status in tracks.stable.received] == ["502", "502", "504", "503"]


@pytest.mark.parametrize("choice", ["never", "always", ""])
def test_clients_cannot_report_a_canary_status(make_tracks: MakeTracks, choice: str) -> None:
    tracks = make_tracks(always(201))
    ask(tracks.connect(), X_Canary=choice, X_Canary_Status="404")
    assert [status for _, _, status in tracks.stable.received + tracks.canary.received] == [""]


def test_a_retry_counts_once_for_the_rate_limit_and_never_evades_it(make_tracks: MakeTracks) -> None:
    tracks = make_tracks(always(404), nginx_rate_limit="1r/m", nginx_rate_limit_burst=5)
    responses = [ask(tracks.connect()) for _ in range(12)]
    allowed = 5 + (responses[5].status == 201)
    assert [response.status for response in responses] == [201] * allowed + [429] * (12 - allowed)
    assert {response.track for response in responses[allowed:]} == {None}
    assert len(tracks.canary.received) == len(tracks.stable.received) == allowed


def test_errors_of_nginx_itself_are_not_retried(make_tracks: MakeTracks) -> None:
    tracks = make_tracks(always(404), nginx_max_large_bodies=1)
    head = b"POST /api/v1/transfers HTTP/1.1\r\nHost: bank\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    assert "payload-too-large" in tracks.edge.send(head + piece * (MAX_BODY // 0x8000 + 1))
    assert statuses(tracks.edge.send(head + b"nonsense\r\n")) == [400]
    with tracks.edge.connect() as slow:
        slow.sendall(head + b"9\r\n")
        responses: list[str] = []

        def refused() -> bool:
            """Return whether the slow one is counted by now."""
            responses.append(tracks.edge.send(head + b"1\r\nx\r\n0\r\n\r\n"))
            return "unavailable" in responses[-1]

        eventually(refused)
    assert len(tracks.canary.received) == len(tracks.stable.received) == len(responses) - 1


def test_stable_may_be_unreachable_too(make_tracks: MakeTracks) -> None:
    tracks = make_tracks(always(404), nginx_pools={name: ["127.0.0.1:9"] for name in SERVICES})
    response = ask(tracks.connect(), "POST", body=b"{}")
    assert (response.status, json.loads(response.body)["code"]) == (503, "unavailable")


def test_the_bank_serves_and_counts_what_a_canary_refuses(bank: LocalBank, tmp_path: Path) -> None:
    pools = {name: [url.removeprefix("http://") for url in bank.stack.urls(name)] for name in SERVICES}
    source, target = bank.open_account(100), bank.open_account()
    with running_replica("canary", always(404)) as canary:
        canaries = {name: [canary.address] for name in SERVICES}
        with running_edge(
            tmp_path / "nginx", nginx_pools=pools, nginx_canary_pools=canaries, nginx_canary_weight=100
        ) as edge:
            with httpx.Client(base_url=f"http://127.0.0.1:{edge.port}/api/v1", timeout=REQUEST_SECONDS) as client:
                for number in range(10):
                    headers = {**bank.headers("alice"), "Idempotency-Key": f"{source}-{number}"}
                    body = {"from_account": source, "to_account": target, "amount": 1, "currency": "USD"}
                    posted = client.post("/transfers", json=body, headers=headers)
                    assert posted.status_code == 201 and "Idempotent-Replayed" not in posted.headers
                assert client.get(f"/accounts/{target}", headers=bank.headers("alice")).json()["balance"] == 10
    assert len(canary.received) == 11
    urls = bank.stack.urls("account-service")
    metrics = "".join(httpx.get(f"{url}/metrics", timeout=REQUEST_SECONDS).text for url in urls)
    labels = r'canary_status="404",handler="/api/v1/transfers",method="POST",[^}]*status="201"'
    assert sum(map(float, re.findall(rf"http_canary_retries_total{{{labels}[^}}]*}} (\S+)", metrics))) == 10
