"""The socket proxy, called by Docker's client and by a client that attempts other calls."""

import asyncio
from typing import Any

import httpx
import pytest
from docker.client import DockerClient
from docker.errors import APIError

from app.cli import FORBIDDEN
from app.docker_proxy import DockerProxy
from app.replica import copy_of, endpoints_of, name_of
from tests.support import Engine, replica_document, service_document

ONE, TWO = replica_document(1), replica_document(2)
POSTGRES = replica_document(1, "postgres")["Id"]
CANARY = replica_document(9)["Id"]


@pytest.fixture
async def raw(engine: Engine):  # type: ignore[no-untyped-def]
    """A raw HTTP client of the proxy."""
    upstream = httpx.AsyncClient(transport=httpx.ASGITransport(app=engine), base_url="http://docker")
    transport = httpx.ASGITransport(app=DockerProxy(upstream, "bank", 4))
    async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
        yield client


def changed(body: dict[str, Any], *path: str, to: Any) -> dict[str, Any]:
    """Return the body with the value at a path changed."""
    first, *rest = path
    return {**body, first: changed(body.get(first, {}), *rest, to=to) if rest else to}


@pytest.mark.parametrize(
    ("method", "path", "body"), FORBIDDEN, ids=[f"{method} {path}" for method, path, _ in FORBIDDEN]
)
async def test_calls_that_scaling_does_not_need_are_rejected(
    raw: httpx.AsyncClient, engine: Engine, method: str, path: str, body: Any
) -> None:
    response = await raw.request(method, path, json=body)
    assert response.status_code in (403, 404) and "refuses" in response.json()["message"]
    assert [call for call in engine.calls if not call.startswith("GET")] == []


@pytest.mark.parametrize("prefix", ["", "/v1.41"])
@pytest.mark.parametrize("container", [POSTGRES, CANARY])
async def test_containers_outside_the_project_are_inaccessible(
    raw: httpx.AsyncClient, engine: Engine, prefix: str, container: str
) -> None:
    calls = [("GET", "json"), ("POST", "start"), ("POST", "stop"), ("DELETE", "")]
    for method, verb in calls:
        response = await raw.request(method, f"{prefix}/containers/{container}/{verb}".rstrip("/"))
        assert response.status_code == 404
    joined = await raw.post("/networks/bank_backend/connect", json={"Container": container, "EndpointConfig": {}})
    assert joined.status_code == 404
    assert all(call.startswith("GET") for call in engine.calls)


async def test_only_replicas_of_the_project_are_listed(docker: DockerClient) -> None:
    mine = {ONE["Id"], TWO["Id"]}
    assert {container["Id"] for container in docker.api.containers(all=True)} == mine
    assert docker.api.containers(all=True, filters={"label": ["com.docker.compose.project=other"]}) == []


async def test_invalid_filters_are_rejected(raw: httpx.AsyncClient) -> None:
    for filters in ('{"label": {"a=b": true}}', "[]", '{"label": "a"}'):
        assert (await raw.get("/containers/json", params={"filters": filters})).status_code == 403


GOOD = copy_of(TWO, 3)


@pytest.mark.parametrize(
    "body",
    [
        changed(GOOD, "HostConfig", "Privileged", to=True),
        changed(GOOD, "HostConfig", "Binds", to=["/:/host"]),
        changed(GOOD, "HostConfig", "CapDrop", to=[]),
        changed(GOOD, "HostConfig", "NetworkMode", to="host"),
        changed(GOOD, "HostConfig", "Mounts", to=[]),
        changed(GOOD, "Image", to="sha256:" + "2" * 64),
        changed(GOOD, "Cmd", to=["sh"]),
        changed(GOOD, "User", to="0"),
        changed(GOOD, "Env", to=["APP_TRACK=stable", "LD_PRELOAD=x"]),
        changed(GOOD, "NetworkingConfig", "EndpointsConfig", to={"host": {}}),
        changed(GOOD, "Labels", "banking.track", to="canary"),
        changed(GOOD, "Labels", "com.docker.compose.project", to="other"),
        changed(GOOD, "Labels", "com.docker.compose.service", to="postgres"),
        changed(GOOD, "Labels", "com.docker.compose.container-number", to="0x3"),
        changed(GOOD, "Labels", "extra", to="label"),
        changed(GOOD, "Labels", to="none"),
        [],
        None,
    ],
)
async def test_only_copies_of_replicas_can_be_created(raw: httpx.AsyncClient, engine: Engine, body: Any) -> None:
    response = await raw.post("/containers/create", params={"name": "bank-account-service-3"}, json=body)
    assert response.status_code == 403 and len(engine.containers) == 4


async def test_a_copy_needs_the_name_of_its_number_and_the_maximum_holds(
    raw: httpx.AsyncClient, engine: Engine
) -> None:
    for query in ({"name": "nginx"}, {}, {"name": name_of(GOOD["Labels"]), "platform": "x"}):
        assert (await raw.post("/containers/create", params=query, json=GOOD)).status_code == 403
    for number in (3, 4):
        engine.containers[replica_document(number)["Id"]] = replica_document(number)
    body = copy_of(TWO, 5)
    response = await raw.post("/containers/create", params={"name": name_of(body["Labels"])}, json=body)
    assert response.status_code == 403 and "maximum" in response.json()["message"]


async def test_a_copy_joins_the_networks_of_its_siblings_with_its_own_aliases(docker: DockerClient) -> None:
    made = docker.api.create_container_from_config(GOOD, "bank-account-service-3")["Id"]
    names = ["bank-account-service-3", "account-service"]
    docker.api.connect_container_to_network(made, "bank_monitoring", aliases=names)
    refused: list[tuple[str, str, list[str]]] = [
        (made, "host", names),
        (made, "bank_broker", names),
        (made, "bank_monitoring", ["postgres"]),
        (ONE["Id"], "bank_monitoring", endpoints_of(ONE, 1)["bank_monitoring"]["Aliases"]),
    ]
    for container, network, aliases in refused:
        with pytest.raises(APIError, match="refuses"):
            docker.api.connect_container_to_network(container, network, aliases=aliases)
    docker.api.start(made)
    with pytest.raises(APIError, match="refuses"):
        docker.api.start(ONE["Id"])


async def test_the_last_replica_is_kept_and_force_is_rejected(docker: DockerClient) -> None:
    with pytest.raises(APIError, match="force"):
        docker.api.remove_container(TWO["Id"], force=True)
    docker.api.stop(TWO["Id"])
    docker.api.remove_container(TWO["Id"], v=True)
    with pytest.raises(APIError, match="last replica"):
        docker.api.stop(ONE["Id"])


async def stop(raw: httpx.AsyncClient, one: dict[str, Any]) -> int:
    return (await raw.post(f"/containers/{one['Id']}/stop")).status_code


async def test_one_of_two_concurrent_stops_is_rejected(raw: httpx.AsyncClient, engine: Engine) -> None:
    """Docker lists a container as running while it drains."""
    engine.stopped.clear()
    first = asyncio.create_task(stop(raw, ONE))
    second = asyncio.create_task(stop(raw, TWO))
    done, _ = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [403]
    engine.stopped.set()
    assert sorted([await first, await second]) == [204, 403]


async def test_an_unfinished_stop_still_counts(raw: httpx.AsyncClient, engine: Engine) -> None:
    engine.refusals[f"POST /containers/{ONE['Id']}/stop"] = (500, "took too long")
    assert await stop(raw, ONE) == 500
    assert await stop(raw, TWO) == 403
    assert (await raw.delete(f"/containers/{TWO['Id']}")).status_code == 403
    assert await stop(raw, ONE) == 500, "it may be stopped again"
    engine.containers[ONE["Id"]]["State"]["StartedAt"] = "later"
    assert await stop(raw, TWO) == 204, "the other one has started anew"


@pytest.mark.parametrize(
    "state",
    [{"Paused": True}, {"Restarting": True}, {"Health": {"Status": "starting"}}, {"Health": {"Status": "unhealthy"}}],
    ids=str,
)
async def test_an_unhealthy_replica_does_not_count_as_remaining(
    raw: httpx.AsyncClient, engine: Engine, state: dict[str, Any]
) -> None:
    engine.containers[ONE["Id"]]["State"] |= state
    assert await stop(raw, TWO) == 403
    assert await stop(raw, ONE) == 204


async def test_the_last_replica_cannot_be_removed_even_if_stopped(raw: httpx.AsyncClient, engine: Engine) -> None:
    for one in (ONE, TWO):
        engine.containers[one["Id"]]["State"] = {"Status": "exited"}
    assert (await raw.delete(f"/containers/{ONE['Id']}")).status_code == 403


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        (changed(service_document()["Spec"], "Mode", "Replicated", "Replicas", to=3), 200),
        (changed(service_document()["Spec"], "Mode", "Replicated", "Replicas", to=5), 403),
        (changed(service_document()["Spec"], "Mode", "Replicated", "Replicas", to=0), 403),
        (changed(service_document()["Spec"], "Mode", "Replicated", "Replicas", to="3"), 403),
        (changed(service_document()["Spec"], "Mode", "Replicated", "Replicas", to=True), 403),
        (changed(service_document()["Spec"], "Mode", to={"Global": {}}), 403),
        (changed(service_document(3)["Spec"], "TaskTemplate", "ContainerSpec", "Image", to="evil"), 403),
        (changed(service_document(3)["Spec"], "Labels", to={}), 403),
        (None, 403),
    ],
)
async def test_only_the_number_of_replicas_of_a_swarm_service_can_change(
    raw: httpx.AsyncClient, engine: Engine, spec: Any, status: int
) -> None:
    engine.services["s" * 25] = service_document()
    before = engine.services["s" * 25]["Spec"]
    response = await raw.post(f"/services/{'s' * 25}/update", params={"version": "7"}, json=spec)
    assert response.status_code == status
    assert (engine.services["s" * 25]["Spec"] == before) == (status == 403)


async def test_an_update_requires_the_compared_version(raw: httpx.AsyncClient, engine: Engine) -> None:
    engine.services["s" * 25] = service_document()
    spec = changed(engine.services["s" * 25]["Spec"], "Mode", "Replicated", "Replicas", to=3)
    for query in ({"version": "8"}, {}, {"version": "7", "rollback": "previous"}):
        assert (await raw.post(f"/services/{'s' * 25}/update", params=query, json=spec)).status_code == 403


async def test_services_outside_the_stack_are_inaccessible(raw: httpx.AsyncClient, engine: Engine) -> None:
    engine.services["s" * 25] = service_document(**{"banking.autoscale": "false"})
    spec = changed(engine.services["s" * 25]["Spec"], "Mode", "Replicated", "Replicas", to=3)
    assert (await raw.post(f"/services/{'s' * 25}/update", params={"version": "7"}, json=spec)).status_code == 403
    assert (await raw.get("/services")).json() == []


async def test_the_health_check_reflects_docker(raw: httpx.AsyncClient, engine: Engine) -> None:
    assert (await raw.get("/health/ready")).status_code == 200
    engine.refusals["GET /_ping"] = (500, "broken")
    assert (await raw.get("/health/ready")).status_code == 500


async def test_invalid_or_oversized_json_is_rejected(raw: httpx.AsyncClient) -> None:
    assert (await raw.post("/containers/create", content=b"{")).status_code == 403
    assert (await raw.post("/containers/create", content=b" " * (1024 * 1024 + 1))).status_code == 403


async def test_a_docker_outage_is_a_502() -> None:
    def away(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no socket")

    upstream = httpx.AsyncClient(transport=httpx.MockTransport(away), base_url="http://docker")
    transport = httpx.ASGITransport(app=DockerProxy(upstream, "bank", 4))
    async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as client:
        response = await client.get("/version")
    assert (response.status_code, "does not answer" in response.json()["message"]) == (502, True)
