"""The socket proxy: Docker's client can do what a rollout needs, and nothing else."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest

from app.docker_proxy import RolloutProxy
from app.selection import Selection

PROJECT = "com.docker.compose.project"


def labels(service: str, track: str | None, project: str = "bank") -> dict[str, str]:
    known = {PROJECT: project, "com.docker.compose.service": service, "com.docker.compose.oneoff": "False"}
    return known | ({"banking.track": track} if track else {})


KNOWN = {
    "1" * 64: labels("account-service", "stable"),
    "2" * 64: labels("account-service", "stable"),
    "3" * 64: labels("transaction-service", "stable"),
    "4" * 64: labels("account-service-canary", "canary"),
    "5" * 64: labels("account-service-previous", "previous"),
    "6" * 64: labels("nginx", None),
    "7" * 64: labels("postgres", None),
    "8" * 64: labels("account-service-canary", "canary", "other"),
    "9" * 64: labels("nginx", None, "other"),
    "a" * 64: labels("postgres", "database"),
}
STABLE, SECOND, LAST, CANARY, PREVIOUS, NGINX, POSTGRES, FOREIGN, FOREIGN_NGINX, ODD = KNOWN


class Engine:
    """A fake Docker Engine that records the calls that change something."""

    def __init__(self) -> None:
        self.changes: list[str] = []
        self.asked: list[dict[str, str]] = []
        self.states: dict[str, dict[str, Any]] = {}
        # Stops respond once this is set, as Docker's do once the process has exited.
        self.stopped = asyncio.Event()
        self.stopped.set()

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        path, query = scope["path"], dict(parse_qsl(scope["query_string"].decode()))
        if scope["method"] != "GET":
            self.changes.append(f"{scope['method']} {path}")
        if path.endswith("/stop"):
            await self.stopped.wait()
        status, body = self.answer(path, query)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path.endswith("/containers/json"):
            self.asked.append(query)
            wanted = [one.partition("=") for one in json.loads(query["filters"])["label"]]
            return 200, [
                {"Id": container_id, "Labels": of}
                for container_id, of in KNOWN.items()
                if all(of.get(name) == value if sign else name in of for name, sign, value in wanted)
            ]
        for container_id, of in KNOWN.items():
            if container_id in path:
                state = {"Status": "running", "StartedAt": "then", **self.states.get(container_id, {})}
                return 200, {"Id": container_id, "Config": {"Labels": of}, "State": state}
        return (200 if "/images/" in path or path.endswith(("_ping", "version")) else 404), {}


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def edge(tmp_path: Path) -> Path:
    """NGINX's directory, with two of three configurations of a rollout."""
    for part in ("prepared", "selected"):
        (tmp_path / part).mkdir()
    for name in ("stable", "canary-10", "previous"):
        (tmp_path / "prepared" / f"{name}.conf").write_text(name, encoding="utf-8")
    return tmp_path


@pytest.fixture
async def docker(engine: Engine, edge: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A raw HTTP client of the proxy."""
    upstream = httpx.AsyncClient(transport=httpx.ASGITransport(app=engine), base_url="http://docker")
    transport = httpx.ASGITransport(app=RolloutProxy(upstream, "bank", Selection(edge)))
    async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
        yield client


@pytest.mark.parametrize("container", [CANARY, PREVIOUS, STABLE])
async def test_replicas_can_be_inspected_stopped_and_removed(
    docker: httpx.AsyncClient, engine: Engine, container: str
) -> None:
    calls = [("GET", "/json"), ("POST", "/stop"), ("DELETE", "?v=True")]
    for method, rest in calls:
        assert (await docker.request(method, f"/v1.41/containers/{container}{rest}")).status_code == 200
    assert len(engine.changes) == 2


async def test_the_last_stable_replica_cannot_be_stopped(docker: httpx.AsyncClient, engine: Engine) -> None:
    response = await docker.post(f"/containers/{LAST}/stop")
    assert (response.status_code, engine.changes) == (403, []) and "last" in response.json()["message"]


async def test_one_of_two_concurrent_stops_is_rejected(docker: httpx.AsyncClient, engine: Engine) -> None:
    """Docker lists a container as running while it drains."""
    engine.stopped.clear()
    stops = [asyncio.create_task(docker.post(f"/containers/{one}/stop")) for one in (STABLE, SECOND)]
    done, _ = await asyncio.wait(stops, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().status_code for task in done] == [403]
    assert (await docker.delete(f"/containers/{SECOND}")).status_code == 403
    engine.stopped.set()
    assert sorted([(await task).status_code for task in stops]) == [200, 403]


@pytest.mark.parametrize("health", ["starting", "unhealthy"])
async def test_a_healthy_replica_can_only_be_replaced_by_a_healthy_one(
    docker: httpx.AsyncClient, engine: Engine, health: str
) -> None:
    engine.states[SECOND] = {"Health": {"Status": health}}
    assert (await docker.post(f"/containers/{STABLE}/stop")).status_code == 403
    assert (await docker.post(f"/containers/{SECOND}/stop")).status_code == 200


async def test_a_one_off_container_does_not_count_as_a_replica(
    docker: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN[SECOND], "com.docker.compose.oneoff", "True")
    assert (await docker.post(f"/containers/{STABLE}/stop")).status_code == 403


@pytest.mark.parametrize("container", [NGINX, POSTGRES, FOREIGN, FOREIGN_NGINX, ODD, "f" * 64])
async def test_other_containers_are_not_found(docker: httpx.AsyncClient, engine: Engine, container: str) -> None:
    for method, rest in [("GET", "/json"), ("POST", "/stop"), ("DELETE", "")]:
        assert (await docker.request(method, f"/containers/{container}{rest}")).status_code == 404
    assert engine.changes == []


async def test_a_prepared_configuration_is_selected_by_name_and_nginx_reloads(
    docker: httpx.AsyncClient, engine: Engine, edge: Path
) -> None:
    for name in ("canary-10", "stable", "stable"):
        assert (await docker.post(f"/edge/{name}")).status_code == 204
        selected = (edge / "selected/nginx.conf").read_text(encoding="utf-8")
        assert selected == f"include {edge}/prepared/{name}.conf;\n"
    assert engine.changes == [f"POST /containers/{NGINX}/kill"] * 3
    assert [path.name for path in (edge / "selected").iterdir()] == ["nginx.conf"]


@pytest.mark.parametrize(
    "call",
    [
        ("POST", "/edge/canary-50"),
        ("POST", "/edge/canary-0"),
        ("POST", "/edge/canary-100"),
        ("POST", "/edge/stable.conf"),
        ("POST", "/edge/../selected/nginx"),
        ("POST", "/edge/stable%0aevil"),
        ("POST", "/edge/stable%0a"),
        ("POST", "/edge/%2e%2e%2fstable"),
        ("POST", "/edge/"),
        ("POST", "/edge/stable?signal=SIGKILL"),
        ("POST", "/v1.41/edge/stable"),
        ("PUT", "/edge/stable"),
        ("GET", "/edge/stable"),
        # The replicas of both services must run.
        ("POST", "/edge/previous"),
        # Only the proxy itself sends signals.
        ("POST", f"/containers/{NGINX}/kill?signal=SIGHUP"),
        ("POST", f"/containers/{STABLE}/kill?signal=SIGHUP"),
    ],
)
async def test_other_configurations_are_rejected_without_a_reload(
    docker: httpx.AsyncClient, engine: Engine, edge: Path, call: tuple[str, str]
) -> None:
    assert (await docker.request(*call)).status_code in (403, 404)
    assert engine.changes == [] and list((edge / "selected").iterdir()) == []
    assert (await docker.post("/edge/stable", content=b'{"include": "/etc/passwd"}')).status_code == 403


async def test_the_previous_version_is_selected_only_while_its_replicas_run(
    docker: httpx.AsyncClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KNOWN, "b" * 64, labels("transaction-service-previous", "previous"))
    assert (await docker.post("/edge/previous")).status_code == 204
    assert len(engine.changes) == 1
    # This pool has no backup.
    assert (await docker.post(f"/containers/{PREVIOUS}/stop")).status_code == 403
    assert (await docker.post("/edge/stable")).status_code == 204
    assert (await docker.post(f"/containers/{PREVIOUS}/stop")).status_code == 200


async def test_a_selection_is_kept_when_nginx_is_stopped_and_follows_no_symlink(
    docker: httpx.AsyncClient, engine: Engine, edge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(KNOWN, NGINX)
    for name in ("nginx.conf", "nginx.conf.tmp"):
        (edge / "selected" / name).symlink_to(tmp_path / "victim")
    response = await docker.post("/edge/canary-10")
    assert response.status_code == 404 and "is not running" in response.json()["message"] and engine.changes == []
    assert "canary-10" in (edge / "selected/nginx.conf").read_text(encoding="utf-8")
    assert not (tmp_path / "victim").exists()


async def test_a_selection_that_cannot_be_written_fails(docker: httpx.AsyncClient, engine: Engine, edge: Path) -> None:
    (edge / "selected/nginx.conf").mkdir()
    assert (await docker.post("/edge/stable")).status_code == 500
    assert engine.changes == []


async def test_only_containers_of_the_project_are_listed(docker: httpx.AsyncClient, engine: Engine) -> None:
    for filters in ({}, {"label": ["banking.track"]}, {"label": [f"{PROJECT}=other"]}):
        response = await docker.get("/containers/json", params={"all": "1", "filters": json.dumps(filters)})
        assert response.status_code == 200
        assert f"{PROJECT}=bank" in json.loads(engine.asked[-1]["filters"])["label"]
        assert all(one["Labels"][PROJECT] == "bank" for one in response.json())
    assert (await docker.get("/containers/json", params={"filters": "[]"})).status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/containers/create"),
        ("POST", f"/containers/{CANARY}/start"),
        ("POST", f"/containers/{CANARY}/exec"),
        ("POST", f"/containers/{CANARY}/update"),
        ("GET", f"/containers/{CANARY}/logs?stdout=1"),
        ("GET", f"/containers/{CANARY}/archive?path=/"),
        ("DELETE", f"/containers/{CANARY}?force=1"),
        ("DELETE", f"/containers/{CANARY}?link=1"),
        ("GET", "/images/json"),
        ("GET", "/images/../containers/json/json"),
        ("POST", "/images/create?fromImage=alpine"),
        ("DELETE", "/images/bank"),
        ("GET", "/info"),
        ("GET", "/secrets"),
        ("POST", "/build"),
        ("POST", "/containers/prune"),
    ],
)
async def test_all_other_calls_are_rejected(docker: httpx.AsyncClient, engine: Engine, method: str, path: str) -> None:
    response = await docker.request(method, path)
    assert response.status_code in (403, 404) and engine.changes == []


async def test_images_can_be_inspected_and_the_health_check_reflects_docker(docker: httpx.AsyncClient) -> None:
    for path in (f"/v1.41/images/localhost:5000/bank/account-service@sha256:{'a' * 64}/json", "/version"):
        assert (await docker.get(path)).status_code == 200
    assert (await docker.get("/health/ready")).status_code == 200
    for body in (b"{}", b"nonsense"):
        assert (await docker.request("GET", "/version", content=body)).status_code == 403
