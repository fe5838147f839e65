"""Metrics client, state directory, control loop, settings, and the command line."""

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from pydantic import ValidationError

from app import cli
from app.docker_proxy import DockerProxy
from app.loop import Loop
from app.metrics_client import PrometheusClient
from app.policy import MetricValue, ScalingPolicy
from app.scalers import registry
from app.settings import AutoscaleSettings
from app.state import StateFolder
from shared.prometheus.registry import REGISTRY
from shared.testing.fixtures import Lab
from tests.conftest import served
from tests.support import ACCOUNT, TOKEN, Engine, FakeCluster, make_settings, until

URL = "http://prometheus:9090"


def prometheus(answer: Callable[[httpx.Request], httpx.Response]) -> PrometheusClient:
    return PrometheusClient(URL, httpx.AsyncClient(transport=httpx.MockTransport(answer)))


def series(name: str, value: Any, **labels: str) -> dict[str, Any]:
    key = "values" if isinstance(value[0], list) else "value"
    return {"metric": {"__name__": name, "service": ACCOUNT, **labels}, key: value}


def result(*found: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"status": "success", "data": {"result": list(found)}})


async def test_metrics_are_read_by_service_and_name() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.url} {request.content.decode()}")
        return result(
            series("autoscale:load:value", [1, "30.5"], metric="requests_per_second"),
            series("autoscale:load:target", [1, "40"], metric="requests_per_second"),
            series("autoscale:load:panic_value", [1, "90"], metric="requests_per_second"),
            series("autoscale:load:panic_value", [1, "90"], metric="a-metric-without-a-target"),
            series("autoscale:load:target", [1, "0.7"], metric="cpu_cores"),
            series("service:replicas:ready", [1, "2"], track="stable"),
            series("autoscale:load:value", [1, "NaN"], metric="requests_per_second", service="transaction-service"),
            series("service:replicas:ready", [1, "NaN"], service="transaction-service"),
        )

    found = await prometheus(answer).query()
    assert found[ACCOUNT].ready == 2 and found[ACCOUNT].load("requests_per_second") == MetricValue(30.5, 40)
    assert found[ACCOUNT].load("cpu_cores") is None and found[ACCOUNT].panic_loads == (MetricValue(90, 40),)
    other = found["transaction-service"]
    assert other.ready is None and math.isnan(other.values["requests_per_second"])
    assert asked[0].startswith(f"{URL}/api/v1/query ") and 'track=~"stable|"' in unquote(asked[0])


async def test_past_metrics_are_read_by_time() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/v1/query_range" and b"start=0&end=30&step=15" in request.content
        return result(
            series("autoscale:load:value", [[15, "10"], [30, "20"]], metric="cpu_cores"),
            series("service:replicas:ready", [[30, "3"]], track="stable"),
        )

    found = (await prometheus(answer).query_range(0, 30, 15))[ACCOUNT]
    assert {when: (one.ready, one.values) for when, one in found.items()} == {
        15: (None, {"cpu_cores": 10}),
        30: (3, {"cpu_cores": 20}),
    }


@pytest.mark.parametrize(
    "answer", [httpx.Response(503), httpx.Response(200, text="<html>"), httpx.Response(200, json={"data": None})]
)
async def test_a_failed_query_yields_no_metrics(answer: httpx.Response) -> None:
    source = prometheus(lambda _request: answer)
    assert await source.query() == {} and await source.query_range(0, 1, 1) == {}


async def test_an_unreachable_server_yields_no_metrics() -> None:
    def away(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("away")

    assert await prometheus(away).query() == {}


def test_leadership_ends_with_the_process_and_a_pause_outlives_it(tmp_path: Path) -> None:
    first, second = StateFolder(tmp_path / "state"), StateFolder(tmp_path / "state")
    assert first.try_acquire_leadership() and first.try_acquire_leadership() and not second.try_acquire_leadership()
    first.pause("alice")
    first.close()
    assert second.try_acquire_leadership() and second.paused == "alice"
    second.resume()
    second.resume()
    assert second.paused is None
    second.close()


async def test_only_the_leader_scales_and_a_standby_takes_over(lab: Lab, tmp_path: Path) -> None:
    cluster = FakeCluster(lambda _now: 400)
    settings = make_settings(lab, metrics=["requests_per_second"])
    folders = [StateFolder(tmp_path), StateFolder(tmp_path)]
    controllers = [cluster.controller(lab) for _ in folders]
    loops = [Loop(controller, folder, settings) for controller, folder in zip(controllers, folders)]
    for loop, controller in zip(loops, controllers):
        await loop.run_once()
        await controller.wait_idle()
    assert [loop.leader for loop in loops] == [True, False] and len(cluster.changes) == 1
    folders[0].close()
    await loops[1].run_once()
    assert loops[1].leader
    folders[1].close()


async def test_the_loop_survives_errors_and_wakes_immediately(
    lab: Lab, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StateFolder(tmp_path)
    loop = Loop(
        cluster.controller(lab), folder, make_settings(lab, active_interval_seconds=0.01, idle_interval_seconds=3600)
    )
    beats: list[int] = []

    async def run_once() -> bool:
        beats.append(1)
        if len(beats) == 1:
            raise RuntimeError("surprise")
        return len(beats) < 3

    monkeypatch.setattr(loop, "run_once", run_once)
    running = asyncio.create_task(loop.run())
    await until(lambda: len(beats) == 3)
    loop.wake()
    await until(lambda: len(beats) == 4)
    running.cancel()
    folder.close()


def test_labels_take_precedence_and_policies_are_parsed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALE_UP_POLICY", "[2,50,30]")
    settings = make_settings(lab, min_replicas=2, max_replicas=6)
    assert settings.scale_up_policy == ScalingPolicy(2, 50, 30)
    assert [(spec.minimum, spec.maximum) for spec in (settings.spec(None, None), settings.spec(1, 3))] == [
        (2, 6),
        (1, 3),
    ]
    assert settings.spec(9, None).maximum == 9
    with pytest.raises(ValidationError, match="min_replicas is above"):
        make_settings(lab, min_replicas=9)
    assert TOKEN not in repr(settings)


@pytest.fixture
def operator_environment(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> Path:
    """The environment of a container with a fake scaler."""
    environment = {"AUTH_JWKS": lab.secrets.jwks, "AUTOSCALE_TOKEN": TOKEN, "PROJECT": "bank", "STATE_DIR": tmp_path}
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setitem(registry.SCALERS, "compose", lambda _settings: cluster)
    return tmp_path


def test_an_operator_pauses_resumes_and_scales_manually(operator_environment: Path, cluster: FakeCluster) -> None:
    assert cli.main(["pause"]) == 0 and (operator_environment / "paused").exists()
    assert cli.main(["resume"]) == 0 and not (operator_environment / "paused").exists()
    assert cli.main(["scale", ACCOUNT, "5"]) == 0 and cluster.changes[-1][1] == 5
    assert cli.main(["scale", "postgres", "5"]) == 1
    cluster.fails = lambda operation: operation == "create"
    assert cli.main(["scale", ACCOUNT, "6"]) == 1
    for wrong in ([], ["scale", ACCOUNT, "0"], ["scale", ACCOUNT], ["destroy"]):
        assert cli.main(wrong) == 2


@pytest.mark.usefixtures("operator_environment")
def test_rejected_calls_can_be_listed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = httpx.AsyncClient(transport=httpx.ASGITransport(app=engine), base_url="http://docker")
    with served(DockerProxy(upstream, "bank", 4)) as url:
        monkeypatch.setenv("DOCKER_URL", url)
        assert cli.main(["check-proxy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(cli.FORBIDDEN) and all(line.startswith(("403", "404")) for line in lines)
    with served(engine) as url:
        monkeypatch.setenv("DOCKER_URL", url)
        monkeypatch.setattr(cli, "FORBIDDEN", [("GET", "/v1.41/version", None)])
        assert cli.main(["check-proxy"]) == 1


@pytest.mark.usefixtures("operator_environment")
def test_the_status_can_be_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(httpx, "get", lambda _url, timeout: httpx.Response(200, json={"leader": True}))
    assert cli.main(["status"]) == 0 and json.loads(capsys.readouterr().out) == {"leader": True}


def test_counters_exist_before_their_first_increase(settings: AutoscaleSettings) -> None:
    assert settings.service == "autoscale-service"
    assert REGISTRY.get_sample_value("autoscale_failures_total", {"service": "all", "operation": "observe"}) is not None
