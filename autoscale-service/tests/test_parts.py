"""The small parts: measurements, state folder, loop, settings, and what operators do by hand."""

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
from app.measurements import Prometheus
from app.policy import Load, Rate
from app.scalers import kinds
from app.settings import AutoscaleSettings
from app.state import StateFolder
from shared.prometheus.registry import REGISTRY
from shared.testing.fixtures import Lab
from tests.conftest import served
from tests.support import ACCOUNT, TOKEN, Engine, World, make_settings, until

URL = "http://prometheus:9090"


def prometheus(answer: Callable[[httpx.Request], httpx.Response]) -> Prometheus:
    return Prometheus(URL, httpx.AsyncClient(transport=httpx.MockTransport(answer)))


def series(name: str, value: Any, **labels: str) -> dict[str, Any]:
    key = "values" if isinstance(value[0], list) else "value"
    return {"metric": {"__name__": name, "service": ACCOUNT, **labels}, key: value}


def result(*found: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json={"status": "success", "data": {"result": list(found)}})


async def test_measurements_are_read_by_service_and_metric() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.url} {request.content.decode()}")
        return result(
            series("autoscale:load:value", [1, "30.5"], metric="requests_per_second"),
            series("autoscale:load:target", [1, "40"], metric="requests_per_second"),
            series("autoscale:load:target", [1, "0.7"], metric="cpu_cores"),
            series("service:replicas:ready", [1, "2"], track="stable"),
            series("autoscale:load:value", [1, "NaN"], metric="requests_per_second", service="transaction-service"),
            series("service:replicas:ready", [1, "NaN"], service="transaction-service"),
        )

    found = await prometheus(answer).now()
    assert found[ACCOUNT].ready == 2 and found[ACCOUNT].load("requests_per_second") == Load(30.5, 40)
    assert found[ACCOUNT].load("cpu_cores") is None
    other = found["transaction-service"]
    assert other.ready is None and math.isnan(other.values["requests_per_second"])
    assert asked[0].startswith(f"{URL}/api/v1/query ") and 'track=~"stable|"' in unquote(asked[0])


async def test_the_past_is_read_by_time() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/v1/query_range" and b"start=0&end=30&step=15" in request.content
        return result(
            series("autoscale:load:value", [[15, "10"], [30, "20"]], metric="cpu_cores"),
            series("service:replicas:ready", [[30, "3"]], track="stable"),
        )

    found = (await prometheus(answer).past(0, 30, 15))[ACCOUNT]
    assert {when: (one.ready, one.values) for when, one in found.items()} == {
        15: (None, {"cpu_cores": 10}),
        30: (3, {"cpu_cores": 20}),
    }


@pytest.mark.parametrize(
    "answer", [httpx.Response(503), httpx.Response(200, text="<html>"), httpx.Response(200, json={"data": None})]
)
async def test_no_answer_is_no_measurement(answer: httpx.Response) -> None:
    source = prometheus(lambda _request: answer)
    assert await source.now() == {} and await source.past(0, 1, 1) == {}


async def test_an_unreachable_server_is_no_measurement() -> None:
    def away(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("away")

    assert await prometheus(away).now() == {}


def test_one_leads_until_it_is_gone_and_a_pause_outlives_it(tmp_path: Path) -> None:
    first, second = StateFolder(tmp_path / "state"), StateFolder(tmp_path / "state")
    assert first.lead() and first.lead() and not second.lead()
    first.pause("alice")
    first.close()
    assert second.lead() and second.paused == "alice"
    second.resume()
    second.resume()
    assert second.paused is None
    second.close()


async def test_only_the_leader_acts_and_the_other_takes_over(lab: Lab, tmp_path: Path) -> None:
    world = World(lambda _now: 400)
    settings = make_settings(lab, metrics=["requests_per_second"])
    folders = [StateFolder(tmp_path), StateFolder(tmp_path)]
    controllers = [world.controller(lab) for _ in folders]
    loops = [Loop(controller, folder, settings) for controller, folder in zip(controllers, folders)]
    for loop, controller in zip(loops, controllers):
        await loop.beat()
        await controller.settle()
    assert [loop.leading for loop in loops] == [True, False] and len(world.changes) == 1
    folders[0].close()
    await loops[1].beat()
    assert loops[1].leading
    folders[1].close()


async def test_the_loop_outlives_surprises_and_wakes_at_once(
    lab: Lab, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StateFolder(tmp_path)
    loop = Loop(world.controller(lab), folder, make_settings(lab, active_interval=0.01, idle_interval=60))
    beats: list[int] = []

    async def beat() -> bool:
        beats.append(1)
        if len(beats) == 1:
            raise RuntimeError("surprise")
        return len(beats) < 3

    monkeypatch.setattr(loop, "beat", beat)
    running = asyncio.create_task(loop.run())
    await until(lambda: len(beats) == 3)
    loop.wake()
    await until(lambda: len(beats) == 4)
    running.cancel()
    folder.close()


def test_labels_go_before_settings_and_rates_are_read_from_text(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UP_RATE", "[2,50,30]")
    settings = make_settings(lab, min_replicas=2, max_replicas=6)
    assert settings.up_rate == Rate(2, 50, 30)
    assert [(rules.minimum, rules.maximum) for rules in (settings.rules(None, None), settings.rules(1, 3))] == [
        (2, 6),
        (1, 3),
    ]
    assert settings.rules(9, None).maximum == 9
    with pytest.raises(ValidationError, match="min_replicas is above"):
        make_settings(lab, min_replicas=9)
    assert TOKEN not in repr(settings)


@pytest.fixture
def by_hand(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> Path:
    """The environment of a container, in which the scaler is a simulated one."""
    environment = {"AUTH_JWKS": lab.secrets.jwks, "AUTOSCALE_TOKEN": TOKEN, "PROJECT": "bank", "STATE_DIR": tmp_path}
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setitem(kinds.SCALERS, "compose", lambda _settings: world)
    return tmp_path


def test_an_operator_pauses_resumes_and_scales_by_hand(by_hand: Path, world: World) -> None:
    assert cli.main(["pause"]) == 0 and (by_hand / "paused").exists()
    assert cli.main(["resume"]) == 0 and not (by_hand / "paused").exists()
    assert cli.main(["scale", ACCOUNT, "5"]) == 0 and world.changes[-1][1] == 5
    assert cli.main(["scale", "postgres", "5"]) == 1
    world.fails = lambda operation: operation == "create"
    assert cli.main(["scale", ACCOUNT, "6"]) == 1
    for wrong in ([], ["scale", ACCOUNT, "0"], ["scale", ACCOUNT], ["destroy"]):
        assert cli.main(wrong) == 2


@pytest.mark.usefixtures("by_hand")
def test_what_is_refused_can_be_shown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = httpx.AsyncClient(transport=httpx.ASGITransport(app=engine), base_url="http://docker")
    with served(DockerProxy(upstream, "bank", 4)) as url:
        monkeypatch.setenv("DOCKER_URL", url)
        assert cli.main(["refused"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(cli.FORBIDDEN) and all(line.startswith(("403", "404")) for line in lines)
    with served(engine) as url:
        monkeypatch.setenv("DOCKER_URL", url)
        monkeypatch.setattr(cli, "FORBIDDEN", [("GET", "/v1.41/version", None)])
        assert cli.main(["refused"]) == 1


@pytest.mark.usefixtures("by_hand")
def test_the_status_can_be_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(httpx, "get", lambda _url: httpx.Response(200, json={"leading": True}))
    assert cli.main(["status"]) == 0 and json.loads(capsys.readouterr().out) == {"leading": True}


def test_every_metric_is_there_before_it_rises(settings: AutoscaleSettings) -> None:
    assert settings.service == "autoscale-service"
    assert REGISTRY.get_sample_value("autoscale_failures_total", {"service": "all", "operation": "observe"}) is not None
