"""The scalers on a fake Engine behind the socket proxy, including failures."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from docker.client import DockerClient

from app.replica import CREATED
from app.scalers import Replicas, ScalingError, UpdateInProgress
from app.scalers.compose import ComposeScaler, connect_docker
from app.scalers.swarm import SwarmScaler
from app.settings import AutoscaleSettings
from tests.support import ACCOUNT, Engine, replica_document, service_document


@pytest.fixture
def compose(settings: AutoscaleSettings, docker: DockerClient) -> ComposeScaler:
    """The scaler of the Engine's project."""
    return ComposeScaler(settings, lambda _url: docker)


def ours(engine: Engine) -> dict[str, dict[str, Any]]:
    """Return the replicas of account-service by number."""
    found = [one for one in engine.containers.values() if one["Config"]["Labels"]["banking.track"] == "stable"]
    named = [one for one in found if one["Config"]["Labels"]["com.docker.compose.service"] == ACCOUNT]
    return {one["Config"]["Labels"]["com.docker.compose.container-number"]: one for one in named}


def aged(document: dict[str, Any], seconds: float) -> datetime:
    """Set the age of a container and return the time."""
    now = datetime.now(UTC).replace(microsecond=0)
    document["Created"] = (now - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return now


def test_only_labelled_stable_replicas_of_the_project_are_observed(compose: ComposeScaler, engine: Engine) -> None:
    engine.containers["e" * 64] = {**replica_document(7, **{"com.docker.compose.oneoff": "True"}), "Id": "e" * 64}
    starting, stopped = replica_document(3, **{"banking.autoscale.max": "5"}), replica_document(4)
    starting["State"], stopped["State"] = {"Status": "running", "Health": {"Status": "starting"}}, {"Status": "exited"}
    engine.containers |= {one["Id"]: one for one in (starting, stopped)}
    assert compose.observe() == {ACCOUNT: Replicas(3, 2, stopped=1)}
    del engine.containers[stopped["Id"]]
    assert compose.observe() == {ACCOUNT: Replicas(3, 2, None, 5)}


def test_new_replicas_copy_the_newest_one_with_all_networks(compose: ComposeScaler, engine: Engine) -> None:
    compose.scale(ACCOUNT, 4)
    found = ours(engine)
    assert sorted(found) == ["1", "2", "3", "4"]
    model, new = found["2"], found["3"]
    assert new["Name"] == "bank-account-service-3" and new["State"]["Status"] == "running"
    assert new["HostConfig"] == model["HostConfig"] and new["Image"] == model["Image"]
    labels = dict(model["Config"]["Labels"])
    del labels["com.docker.compose.replace"]
    assert new["Config"]["Labels"] == {**labels, CREATED: "true", "com.docker.compose.container-number": "3"}
    for field in ("Env", "User", "Healthcheck", "StopTimeout"):
        assert new["Config"][field] == model["Config"][field]
    assert "Hostname" not in new["Config"], "the model's own name"
    networks = new["NetworkSettings"]["Networks"]
    assert set(networks) == set(model["NetworkSettings"]["Networks"])
    assert all(network == {"Aliases": ["bank-account-service-3", ACCOUNT]} for network in networks.values())
    # All networks are connected before the start.
    first_start = next(index for index, call in enumerate(engine.calls) if call.endswith("/start"))
    assert sum(call.endswith("/connect") for call in engine.calls[:first_start]) >= 2


def test_a_copy_of_a_copy_is_equal(compose: ComposeScaler, engine: Engine) -> None:
    compose.scale(ACCOUNT, 3)
    aged(ours(engine)["3"], 0)
    ours(engine)["3"]["State"]["Health"] = {"Status": "healthy"}
    compose.scale(ACCOUNT, 4)
    third, fourth = (ours(engine)[number] for number in "34")
    assert {**fourth["Config"], "Labels": 0} == {**third["Config"], "Labels": 0}
    assert fourth["HostConfig"] == third["HostConfig"]


def test_unready_replicas_are_removed_first_then_the_newest(compose: ComposeScaler, engine: Engine) -> None:
    third = replica_document(3)
    engine.containers[third["Id"]] = third
    compose.scale(ACCOUNT, 2)
    assert sorted(ours(engine)) == ["1", "2"]
    assert [call.split("/")[-1] for call in engine.calls if call.startswith("POST")] == ["stop"]
    engine.containers[third["Id"]] = replica_document(3)
    ours(engine)["1"]["State"]["Health"] = {"Status": "unhealthy"}
    compose.scale(ACCOUNT, 2)
    assert sorted(ours(engine)) == ["2", "3"]


@pytest.mark.parametrize(
    ("call", "status", "message", "operation"),
    [
        ("POST /containers/create", 500, "daemon is broken", "create"),
        ("POST /containers/create", 404, "No such image", "create"),
        ("POST /containers/create", 409, "name in use", "create"),
        ("POST /networks/bank_monitoring", 500, "no address left", "start"),
        ("POST /containers/", 500, "no space left on device", "create"),
    ],
)
def test_a_failed_operation_leaves_no_container_behind(
    compose: ComposeScaler, engine: Engine, call: str, status: int, message: str, operation: str
) -> None:
    engine.refusals[call] = (status, message)
    with pytest.raises(ScalingError) as raised:
        compose.scale(ACCOUNT, 4)
    assert raised.value.operation == operation and message in str(raised.value)
    assert sorted(ours(engine)) == ["1", "2"]


def test_a_replica_that_does_not_start_is_removed(compose: ComposeScaler, engine: Engine) -> None:
    made = hashlib.sha256(b"bank-account-service-3").hexdigest()
    engine.refusals[f"POST /containers/{made}/start"] = (500, "no space left on device")
    with pytest.raises(ScalingError, match="start: .*no space left"):
        compose.scale(ACCOUNT, 4)
    # The one that started is kept.
    assert sorted(ours(engine)) == ["1", "2", "4"]


def test_a_failed_removal_is_retried(compose: ComposeScaler, engine: Engine) -> None:
    engine.refusals |= {"POST /networks/": (500, "busy"), "DELETE /": (500, "busy")}
    with pytest.raises(ScalingError):
        compose.scale(ACCOUNT, 3)
    assert ours(engine)["3"]["State"]["Status"] == "exited"
    engine.refusals.clear()
    aged(ours(engine)["3"], 61)
    assert compose.remove_failed(ACCOUNT) == 1 and sorted(ours(engine)) == ["1", "2"]


@pytest.mark.parametrize(
    ("age", "health", "made", "removed"),
    [(61, "starting", True, 1), (61, "unhealthy", True, 1), (59, "starting", True, 0), (61, "healthy", True, 0)]
    # Neither replicas of compose nor those of an earlier process, which may have been healthy.
    + [(61, "unhealthy", False, 0), (181, "unhealthy", True, 0)],
)
def test_a_replica_that_never_becomes_healthy_is_removed(
    compose: ComposeScaler,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    age: float,
    health: str,
    made: bool,
    removed: int,
) -> None:
    third = replica_document(3, **({CREATED: "true"} if made else {}))
    third["State"]["Health"] = {"Status": health}
    now = aged(third, age).timestamp()
    # On a busy machine a second passes quickly.
    monkeypatch.setattr("app.scalers.compose.time.time", lambda: now)
    engine.containers[third["Id"]] = third
    assert compose.remove_failed(ACCOUNT) == removed


def test_a_replica_that_becomes_unhealthy_is_kept(compose: ComposeScaler, engine: Engine) -> None:
    third = replica_document(3, **{CREATED: "true"})
    aged(third, 61)
    engine.containers[third["Id"]] = third
    compose.observe()
    third["State"]["Health"] = {"Status": "unhealthy"}
    compose.observe()
    assert compose.remove_failed(ACCOUNT) == 0


@pytest.mark.parametrize("image, label", [("2", "1"), ("1", "2")], ids=["of an image", "of settings"])
def test_nothing_is_scaled_while_two_versions_run(
    compose: ComposeScaler, engine: Engine, image: str, label: str
) -> None:
    for container in engine.containers.values():
        container["Config"]["Labels"]["banking.configuration"] = "1" * 64
    new = replica_document(3, **{"banking.configuration": label * 64})
    new["Image"] = "sha256:" + image * 64
    engine.containers[new["Id"]] = new
    assert compose.observe() == {ACCOUNT: Replicas(3, 3, updating=True)}
    for count in (2, 4):
        with pytest.raises(UpdateInProgress, match="two versions"):
            compose.scale(ACCOUNT, count)
    assert all(call.startswith("GET") for call in engine.calls)
    # Containers that never started, stopped ones and canaries do not count as an update.
    new["State"] = {"Status": "created"}
    assert not compose.observe()[ACCOUNT].updating
    new["State"] = {"Status": "exited"}
    canary = next(one for one in engine.containers.values() if one["Config"]["Labels"]["banking.track"] == "canary")
    canary["Image"] = "sha256:" + "3" * 64
    assert not compose.observe()[ACCOUNT].updating


def test_canaries_are_ignored(compose: ComposeScaler, engine: Engine) -> None:
    canaries = {
        one["Id"]: one
        for number in (1, 2)
        for one in [replica_document(number, f"{ACCOUNT}-canary", **{"banking.track": "canary"})]
    }
    engine.containers |= canaries
    before = orjson.dumps(canaries)
    assert compose.observe() == {ACCOUNT: Replicas(2, 2)}
    compose.scale(ACCOUNT, 4)
    compose.scale(ACCOUNT, 1)
    compose.remove_failed(f"{ACCOUNT}-canary")
    with pytest.raises(ScalingError, match="no replica to copy"):
        compose.scale(f"{ACCOUNT}-canary", 3)
    assert orjson.dumps({canary: engine.containers[canary] for canary in canaries}) == before
    assert not any(identifier in call for call in engine.calls for identifier in canaries)


def test_a_failed_removal_does_not_stop_draining_the_others(compose: ComposeScaler, engine: Engine) -> None:
    compose.scale(ACCOUNT, 4)
    third = ours(engine)["3"]["Id"]
    engine.refusals[f"DELETE /containers/{third}"] = (500, "device or resource busy")
    with pytest.raises(ScalingError, match="remove: .*busy"):
        compose.scale(ACCOUNT, 2)
    assert {number: container["State"]["Status"] for number, container in ours(engine).items()} == {
        **dict.fromkeys("12", "running"),
        "3": "exited",
    }


def test_a_service_without_replicas_cannot_be_scaled(compose: ComposeScaler) -> None:
    with pytest.raises(ScalingError, match="no replica to copy"):
        compose.scale("postgres", 2)


@pytest.mark.parametrize("scaler", [ComposeScaler, SwarmScaler])
def test_a_docker_outage_fails_every_observation(settings: AutoscaleSettings, scaler: Any) -> None:
    away = scaler(settings, lambda _url: connect_docker("tcp://127.0.0.1:9"))
    with pytest.raises(ScalingError, match="observe"):
        away.observe()


class Now:
    """A clock that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    """A stopped clock."""
    return Now()


@pytest.fixture
def swarm(settings: AutoscaleSettings, docker: DockerClient, engine: Engine, now: Now) -> SwarmScaler:
    """The scaler of the Engine's stack, which has one service."""
    engine.services["s" * 25] = service_document(**{"banking.autoscale.min": "1", "banking.autoscale.max": "x"})
    return SwarmScaler(settings, lambda _url: docker, now)


def test_only_the_number_of_replicas_of_a_stack_changes(swarm: SwarmScaler, engine: Engine) -> None:
    assert swarm.observe() == {ACCOUNT: Replicas(2, 2, 1, None)}
    before = service_document(4, **{"banking.autoscale.min": "1", "banking.autoscale.max": "x"})["Spec"]
    swarm.scale(ACCOUNT, 4)
    assert engine.services["s" * 25]["Spec"] == before
    assert swarm.observe() == {ACCOUNT: Replicas(4, 2, 1, None)}
    with pytest.raises(ScalingError, match="not a scalable service"):
        swarm.scale("postgres", 2)


def test_tasks_that_do_not_become_ready_are_removed(swarm: SwarmScaler, engine: Engine, now: Now) -> None:
    assert swarm.remove_failed(ACCOUNT) == 0
    swarm.scale(ACCOUNT, 4)
    now.seconds = 59
    swarm.observe()
    assert swarm.remove_failed(ACCOUNT) == 0
    now.seconds = 61
    engine.refusals["POST /services"] = (500, "update out of sequence")
    with pytest.raises(ScalingError, match="update"):
        swarm.remove_failed(ACCOUNT)
    del engine.refusals["POST /services"]
    assert swarm.remove_failed(ACCOUNT) == 2, "what was refused is tried again"
    assert swarm.observe() == {ACCOUNT: Replicas(2, 2, 1, None)}
    swarm.scale(ACCOUNT, 3)
    engine.services["s" * 25]["ServiceStatus"]["RunningTasks"] = 3
    swarm.observe()
    now.seconds = 200
    assert swarm.remove_failed(ACCOUNT) == 0


@pytest.mark.parametrize("state", ["updating", "paused", "rollback_started", "rollback_paused"])
def test_during_a_swarm_update_nothing_changes(swarm: SwarmScaler, engine: Engine, state: str) -> None:
    engine.services["s" * 25]["UpdateStatus"] = {"State": state}
    assert swarm.observe() == {ACCOUNT: Replicas(2, 2, 1, updating=True)}
    with pytest.raises(UpdateInProgress, match="updated"):
        swarm.scale(ACCOUNT, 4)
    engine.services["s" * 25]["UpdateStatus"] = {"State": "completed"}
    swarm.scale(ACCOUNT, 4)
    assert swarm.observe()[ACCOUNT] == Replicas(4, 2, 1)


def test_a_rejected_swarm_update_is_a_failure(swarm: SwarmScaler, engine: Engine) -> None:
    engine.refusals["POST /services"] = (500, "update out of sequence")
    with pytest.raises(ScalingError, match="update"):
        swarm.scale(ACCOUNT, 3)


def test_a_container_removed_since_the_listing_is_no_failure(compose: ComposeScaler, engine: Engine) -> None:
    engine.refusals[f"GET /containers/{replica_document(2)['Id']}"] = (404, "No such container")
    assert compose.observe() == {ACCOUNT: Replicas(1, 1)}
    compose.scale(ACCOUNT, 2)
