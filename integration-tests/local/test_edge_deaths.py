"""A request that crashes replicas is tried on two at most; a request that cannot connect is retried on the others."""

import http.client
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import edge as edge_module
import pytest
from harness.edge import Edge, running_edge
from harness.client import REQUEST_SECONDS, WAIT_SECONDS, eventually, repeating

from shared.testing.paths import ROOT
from shared.testing.ports import free_port
from shared.testing.processes import Process, stop_all

MORTAL = ROOT / "integration-tests" / "harness" / "crashing_replica.py"


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: http.client.HTTPMessage
    body: dict[str, Any]

    @property
    def track(self) -> str | None:
        """Whose answer it is."""
        return self.headers["X-App-Track"]


@dataclass
class Pool:
    """NGINX, replicas that requests can kill, and addresses where nobody listens."""

    folder: Path
    stable: list[Process] = field(default_factory=list)
    canaries: list[Process] = field(default_factory=list)
    edge: Edge = field(init=False)

    def send(self, word: str, method: str = "POST", **headers: str) -> Answer:
        """Send a request that holds a word, as a client of the bank does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.edge.port, timeout=REQUEST_SECONDS)
        try:
            body = json.dumps({"reference": word}) if method == "POST" else None
            given = {"Idempotency-Key": "key", "Content-Type": "application/json", **headers}
            path = "/api/v1/transfers" if body else f"/api/v1/accounts/{word}"
            connection.request(method, path, body, given)
            response = connection.getresponse()
            return Answer(response.status, response.headers, json.loads(response.read()))
        finally:
            connection.close()

    def deaths(self, expected: int) -> tuple[int, int]:
        """Return how many stable replicas and how many canaries have died, once it is as many as expected."""

        def died() -> tuple[int, int]:
            return sum(replica.died for replica in self.stable), sum(replica.died for replica in self.canaries)

        # A process that is killed closes its connections before it has ended.
        eventually(lambda: sum(died()) >= expected)
        time.sleep(0.05)
        return died()

    @staticmethod
    def kill(replica: Process) -> None:
        """Kill a replica and wait until it is gone: until then it may take a request."""
        replica.kill()
        replica.wait(WAIT_SECONDS)

    def start(self, name: str, count: int, status: int = 201) -> list[str]:
        """Start replicas with a name and return their addresses."""
        addresses = []
        for number in range(count):
            port = free_port()
            command = [sys.executable, "-S", str(MORTAL), str(port), name, str(status)]
            replica = Process(f"{name}-{number}", command, self.folder / "replicas.log", stop_signal=signal.SIGKILL)
            replica.start()
            (self.stable if name == "stable" else self.canaries).append(replica)
            addresses.append(f"127.0.0.1:{port}")
        return addresses


MakePool = Callable[..., Pool]


@contextmanager
def running_pool(
    folder: Path, stable: int, canaries: int = 0, refusing: int = 0, canary_status: int = 201, **variables: Any
) -> Iterator[Pool]:
    """Start NGINX before so many replicas, each with a kept-alive connection."""
    pool = Pool(folder)
    try:
        servers = [f"127.0.0.1:{free_port()}" for _ in range(refusing)] + pool.start("stable", stable)
        given: dict[str, Any] = {"nginx_pools": {name: servers for name in ("account-service", "transaction-service")}}
        if canaries:
            addresses = pool.start("canary", canaries, canary_status)
            given["nginx_canary_pools"] = {name: addresses for name in given["nginx_pools"]}
            given["nginx_canary_weight"] = 1
        given |= variables
        # One worker, so that its kept-alive connections are those that the next request gets.
        with running_edge(folder / "nginx", nginx_worker_processes=1, **given) as pool.edge:
            for choice, status in (("always", canary_status), ("never", 201)) if canaries else (("never", 201),):
                for _ in range(2 * max(stable, canaries)):
                    eventually(lambda word=choice, due=status: pool.send("", **{"X-Canary": word}).status == due)
            yield pool
    finally:
        stop_all([*pool.stable, *pool.canaries])


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    """Start an NGINX and replicas of one's own: make_pool(stable, canaries=1 …)."""
    with ExitStack() as pools:
        yield lambda *arguments, **given: pools.enter_context(running_pool(tmp_path, *arguments, **given))


def assert_gave_up(answer: Answer) -> None:
    """Fail unless the client was told in the bank's words that two replicas failed, and when to come again."""
    assert (answer.status, answer.body["status"], answer.body["code"]) == (502, 502, "bad-gateway"), answer
    assert answer.headers["Content-Type"] == "application/problem+json" and answer.headers["Retry-After"] == "5"
    assert (
        answer.body["type"] == "/problems/bad-gateway" and answer.body["request_id"] == answer.headers["X-Request-ID"]
    )


@pytest.mark.parametrize("replicas", [2, 3, 6])
@pytest.mark.parametrize(("method", "word"), [("POST", "death"), ("GET", "death"), ("POST", "halfway")])
def test_a_query_of_death_kills_at_most_two_replicas(
    make_pool: MakePool, replicas: int, method: str, word: str
) -> None:
    pool = make_pool(replicas)
    assert_gave_up(pool.send(word, method))
    assert pool.deaths(2) == (2, 0)
    if replicas > 2:
        assert pool.send("life").status == 201


def test_a_query_of_death_kills_a_single_replica(make_pool: MakePool) -> None:
    pool = make_pool(1)
    response = pool.send("death")
    # While a process ends, its port may accept one more connection: then the same replica has failed twice.
    expected = {(503, "unavailable", "1"), (502, "bad-gateway", "5")}
    assert (response.status, response.body["code"], response.headers["Retry-After"]) in expected
    assert pool.deaths(1) == (1, 0)


@pytest.mark.parametrize("canaries", [1, 2])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_canary_that_dies_counts_as_one(make_pool: MakePool, canaries: int, method: str) -> None:
    pool = make_pool(4, canaries)
    assert_gave_up(pool.send("death", method, **{"X-Canary": "always"}))
    assert pool.deaths(2) == (1, 1)


@pytest.mark.parametrize("canary_status", [404, 500, 502])
def test_canaries_that_fail_and_stable_ones_that_die(make_pool: MakePool, canary_status: int) -> None:
    """An answer is no death, whatever its status."""
    pool = make_pool(6, 2, canary_status=canary_status, nginx_canary_weight=100)
    response = pool.send("life")
    assert (response.status, response.track) == (201, "stable")
    response = pool.send("stable dies")
    assert_gave_up(response)
    assert pool.deaths(2) == (2, 0)
    for canary in pool.canaries:
        pool.kill(canary)
    response = pool.send("life")
    assert (response.status, response.track) == (201, "stable")
    assert_gave_up(pool.send("death"))
    assert pool.deaths(4) == (4, 0)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_503_responses_do_not_exclude_replicas(make_pool: MakePool, replicas: int) -> None:
    pool = make_pool(replicas)
    for _ in range(2 * replicas):
        assert pool.send("busy").status == 503
        assert pool.send("life").status == 201
    # Nor from one that is left when another has died.
    if replicas > 1:
        pool.kill(pool.stable[0])
        assert pool.send("busy").status == 503
        assert {pool.send("life").status for _ in range(10)} == {201}


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_replicas_that_cannot_be_connected_to_do_not_count(make_pool: MakePool, method: str) -> None:
    pool = make_pool(3, refusing=6)
    # Those that refused were left out for two seconds; then one request may meet all of them.
    time.sleep(2.1)
    assert pool.send("life", method).track == "stable"
    time.sleep(2.1)
    assert_gave_up(pool.send("death", method))
    assert pool.deaths(2) == (2, 0)


def test_a_request_that_hangs_holds_two_replicas(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    render = edge_module.render
    monkeypatch.setattr(
        edge_module, "render", lambda **given: render(**given).replace("read_timeout 30s", "read_timeout 200ms")
    )
    pool = make_pool(4)
    assert_gave_up(pool.send("hang"))
    log = pool.folder / "replicas.log"
    # NGINX does not wait until a replica has read the request.
    eventually(lambda: len(log.read_text(encoding="utf-8").splitlines()) >= 2)
    assert log.read_text(encoding="utf-8").splitlines() == ["hangs"] * 2


def test_the_operations_page_tries_at_most_two_replicas(make_pool: MakePool) -> None:
    pool = make_pool(4, nginx_page="/nowhere")
    with closing(http.client.HTTPConnection("127.0.0.1", pool.edge.port, timeout=REQUEST_SECONDS)) as connection:
        connection.request("GET", "/ops/account-service.json?death")
        assert connection.getresponse().status == 502
    assert pool.deaths(2) == (2, 0)


def test_a_replica_killed_under_load_loses_no_request(make_pool: MakePool) -> None:
    pool = make_pool(3)
    statuses: list[int] = []
    with repeating(*[lambda: statuses.append(pool.send("life").status)] * 8):
        eventually(lambda: len(statuses) > 50)
        pool.stable[0].kill()
        before = len(statuses)
        eventually(lambda: len(statuses) > before + 100)
    assert set(statuses) == {201}
