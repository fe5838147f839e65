"""NGINX, Docker and Slack clients, synthetic requests, and the complete service."""

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import requests
from docker.errors import APIError, ImageNotFound, NotFound

from app import api
from app import nginx as nginx_module
from app import main, readiness, state_machine
from app.analysis.records import load_record
from app.analysis.runner import Analyzer
from app.analysis.samples import PrometheusSamples
from app.analysis.verdict import evaluate
from app.containers import Container, Containers, DockerError
from app.nginx import NginxClient, NginxError
from app.notify import Notifier, message
from app.prometheus import FAILURES
from app.settings import RolloutSettings
from app.state_file import StateFile
from app.rollout_request import SERVICES
from app.state_machine import Rollout
from app.synthetic import SyntheticTraffic
from shared.testing.fixtures import Lab
from shared.testing.timing import BUSY_SECONDS, assert_prompt, eventually
from tests.fake_stack import NOW, at_step, started, done, verdict

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(answer))


def unreachable(_request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


# NGINX ----------------------------------------------------------------------------------------------------------------


def fake_nginx(served: list[str], answer: int = 204) -> Answer:
    """Return a fake NGINX and socket proxy."""

    def reply(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            assert (request.url.host, request.content) == ("proxy", b"")
            served.append(request.url.path.removeprefix("/edge/"))
            return httpx.Response(answer, text="" if answer == 204 else "not prepared")
        return httpx.Response(200, text=served[-1])

    return reply


async def test_apply_returns_once_nginx_serves_the_configuration() -> None:
    served = ["stable"]
    edge = NginxClient("http://nginx", "http://proxy", client(fake_nginx(served)))
    await edge.apply("canary-10")
    assert await edge.revision() == "canary-10" and served == ["stable", "canary-10"]


async def test_a_rejected_configuration_raises_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nginx_module, "_APPLY_TIMEOUT_SECONDS", 0.3)
    with pytest.raises(NginxError, match="canary-99: not prepared"):
        await NginxClient("http://nginx", "http://proxy", client(fake_nginx(["stable"], 404))).apply("canary-99")

    def stubborn(request: httpx.Request) -> httpx.Response:
        return httpx.Response(204) if request.method == "POST" else httpx.Response(200, text="stable")

    with pytest.raises(NginxError, match="canary-10: NGINX does not serve it"):
        await NginxClient("http://nginx", "http://proxy", client(stubborn)).apply("canary-10")
    with pytest.raises(NginxError, match="proxy does not respond"):
        await NginxClient("http://nginx", "http://proxy", client(unreachable)).apply("canary-10")
    for failure in (unreachable, lambda _request: httpx.Response(500)):
        assert await NginxClient("http://nginx", "http://proxy", client(failure)).revision() is None


# Docker ---------------------------------------------------------------------------------------------------------------


def document(number: str, service: str, track: str, health: str = "healthy", running: bool = True) -> dict[str, Any]:
    labels = {"com.docker.compose.service": service, "banking.track": track}
    if track == "canary":
        labels["banking.configuration"] = "1" * 64
    state = {"Running": running, "Health": {"Status": health}}
    return {"Id": number, "Image": "sha256:a", "Config": {"Labels": labels}, "State": state}


class Api:
    """Docker's low-level client."""

    def __init__(self) -> None:
        self.documents = {
            "1": document("1", "account-service", "stable"),
            "2": document("2", "account-service-canary", "canary", "starting"),
            "3": document("3", "transaction-service-previous", "previous", running=False),
        }
        self.listed = ["1", "2", "3", "gone"]
        self.done: list[str] = []
        self.fails: Exception | None = None

    @property
    def api(self) -> "Api":
        return self

    def containers(self, **_filters: Any) -> list[dict[str, str]]:
        if self.fails:
            raise self.fails
        return [{"Id": container} for container in self.listed]

    def inspect_container(self, number: str) -> dict[str, Any]:
        if number not in self.documents:
            raise NotFound("gone")
        return self.documents[number]

    def inspect_image(self, name: str) -> dict[str, str]:
        if name == "missing":
            raise ImageNotFound("missing")
        return {"Id": f"id of {name}"}

    def stop(self, number: str) -> None:
        if number == "gone":
            raise NotFound("gone")
        self.done.append(f"stop {number}")

    def remove_container(self, number: str, v: bool) -> None:  # pylint: disable=invalid-name
        self.done.append(f"remove {number} {v}")


def test_containers_are_listed_by_service_and_track_and_stopped_gracefully() -> None:
    api = Api()
    containers = Containers("tcp://proxy", "bank", lambda _url: api)  # type: ignore[arg-type,return-value]
    found = containers.observe()
    assert [(one.service, one.track, one.running, one.healthy) for one in found] == [
        ("account-service", "stable", True, True),
        ("account-service", "canary", True, False),
        ("transaction-service", "previous", False, False),
    ]
    # Replicas of earlier releases have no revision.
    assert [one.revision for one in found] == ["", "1" * 64, ""]
    containers.remove([found[1], Container("gone", "account-service", "canary", "", True, True)])
    assert api.done == ["stop 2", "remove 2 True"]
    assert containers.image_ids({"account-service": "x", "transaction-service": "missing"}) == {
        "account-service": "id of x"
    }
    for error in (APIError("no"), requests.ConnectionError("no")):
        api.fails = error
        with pytest.raises(DockerError, match="list the containers"):
            containers.observe()


def test_canaries_without_a_prometheus_result_count_as_not_scraped(monkeypatch: pytest.MonkeyPatch) -> None:
    result = [{"metric": {"service": "account-service"}, "value": [0, "2"]}]
    responses: list[Any] = [
        httpx.Response(200, json={"data": {"result": result}}),
        httpx.Response(500),
        httpx.Response(200, json={"data": None}),
        httpx.Response(200, text="nonsense"),
    ]

    def get(url: str, **_more: Any) -> httpx.Response:
        response: httpx.Response = responses.pop(0)
        response.request = httpx.Request("GET", url)
        return response

    monkeypatch.setattr(readiness.httpx, "get", get)
    assert readiness.scraped_canaries("http://prometheus") == {"account-service": 2}
    assert [readiness.scraped_canaries("http://prometheus") for _ in range(3)] == [{}, {}, {}]


# Slack ----------------------------------------------------------------------------------------------------------------


def test_a_notification_has_the_event_and_its_reason() -> None:
    state = at_step()
    event = state.history[-1]
    sent = message(state, event)["attachments"][0]
    assert sent["title"] == "[ROLLOUT] v2 · canary · step 1"
    assert "10 % of clients" in sent["text"] and "by ansible" in sent["text"]
    judged = rolled_back_by_imbalance()
    view = message(judged, judged.history[-1])["attachments"][0]
    assert view["color"] == "danger"
    assert "account-service: 1 of 120 failed (stable 0 of 900), +10 ms" in view["text"]
    assert "ledger-imbalance: 4.0" in view["text"]
    assert message(done(), done().history[-1])["attachments"][0]["color"] == "good"


def rolled_back_by_imbalance() -> Rollout:
    figures = verdict("rollback", "ledger-imbalance")
    figures["figures"]["invariants"] = {"ledger-imbalance": 4.0}
    return state_machine.apply_verdict(at_step(), 0, figures, NOW)


async def test_a_slack_outage_blocks_nothing_and_leaks_no_webhook_url(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []
    hangs = asyncio.Event()

    async def slack(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        await hangs.wait()
        return httpx.Response(200 if len(seen) == 1 else 500)

    state = started()
    before = FAILURES.labels("notify")._value.get()  # pylint: disable=protected-access
    notifier = Notifier(httpx.AsyncClient(transport=httpx.MockTransport(slack)), "http://hooks.example/secret")
    sending = asyncio.create_task(notifier.run())
    with assert_prompt():
        for _ in range(103):
            await notifier.notify(state, state.history[0])
            await asyncio.sleep(0)
    hangs.set()
    while len(seen) < 101:
        await asyncio.sleep(0.01)
    sending.cancel()
    await asyncio.wait([sending])
    # Two were dropped from the full queue, and all but the first failed.
    assert FAILURES.labels("notify")._value.get() >= before + 100  # pylint: disable=protected-access
    await Notifier(client(unreachable), "http://hooks.example/secret").send({})
    await Notifier(client(unreachable), None).notify(state, state.history[0])
    assert "secret" not in caplog.text


# Public view ----------------------------------------------------------------------------------------------------------


def test_the_public_view_has_no_driver_images_or_free_text() -> None:
    view = api.public_view(rolled_back_by_imbalance())
    assert (view["phase"], view["release"], view["steps"], view["weight"]) == ("rolling-back", "v2", (10, 50), 10)
    assert view["verdict"] == {"verdict": "rollback", "reason": "ledger-imbalance"}
    assert [event["phase"] for event in view["history"][:2]] == ["rolling-back", "canary"]
    assert view["history"][0]["reason"] == "ledger-imbalance"
    by_hand = json.dumps(api.public_view(state_machine.abort(at_step(), "one", "eve asked bob", NOW)))
    assert "eve" not in by_hand and at_step().driver not in by_hand and "sha256" not in by_hand
    assert api.public_view(Rollout())["verdict"] is None


# Verdicts -------------------------------------------------------------------------------------------------------------


def make_settings(lab: Lab, folder: Path, **changes: Any) -> RolloutSettings:
    values = {"auth_jwks": str(lab.secrets.jwks), "project": "bank", "state_dir": folder}
    values["memory_dir"] = folder / "memory"
    return RolloutSettings(**{**values, **changes})


async def test_every_analysis_is_recorded_and_old_rollouts_are_pruned(lab: Lab, tmp_path: Path) -> None:
    for number in range(25):
        tmp_path.joinpath("verdicts", f"0{number:02}").mkdir(parents=True)
    analyzer = Analyzer(PrometheusSamples("http://prometheus", client(unreachable)), make_settings(lab, tmp_path))
    state = at_step()
    for _ in range(2):
        found = await analyzer.run(state, NOW + 5)
        assert (found["verdict"], found["reason"]) == ("hold", "no-data")
    kept = sorted(tmp_path.joinpath("verdicts", "one").iterdir())
    assert [path.name for path in kept] == ["001.json", "002.json"]
    assert load_record(kept[0]).about == {"rollout": "one", "version": "v2", "step": 0, "weight": 10}
    assert len(list(tmp_path.joinpath("verdicts").iterdir())) == 20


async def test_a_rollback_by_the_contract_probe_is_recorded_and_can_be_replayed(lab: Lab, tmp_path: Path) -> None:
    analyzer = Analyzer(PrometheusSamples("http://prometheus", client(unreachable)), make_settings(lab, tmp_path))
    difference = "account-service account: body/balance: expected 750, got 751"
    found = await analyzer.run(at_step(), NOW + 5, contract=difference)
    record = load_record(tmp_path / "verdicts" / "one" / "001.json")
    assert (found["verdict"], found["reason"], found["detail"]) == ("rollback", "contract", difference)
    assert record.verdict == evaluate(record.samples, record.policy)
    assert (record.verdict.reason, record.verdict.detail, record.at) == ("contract", difference, NOW + 5)


async def test_a_prometheus_that_hangs_does_not_delay_a_rollback_by_the_contract_probe(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.analysis.runner._CONTRACT_READ_TIMEOUT_SECONDS", 0.01)

    async def hang(_request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        return httpx.Response(500)

    async with httpx.AsyncClient(transport=httpx.MockTransport(hang)) as hanging:
        analyzer = Analyzer(PrometheusSamples("http://prometheus", hanging), make_settings(lab, tmp_path))
        async with asyncio.timeout(BUSY_SECONDS):
            found = await analyzer.run(at_step(), NOW + 5, contract="differs")
    assert (found["verdict"], found["reason"]) == ("rollback", "contract")
    record = load_record(tmp_path / "verdicts" / "one" / "001.json")
    assert record.verdict == evaluate(record.samples, record.policy)


@pytest.mark.parametrize("error", [OSError("no space left"), ValueError("no JSON"), RecursionError()])
async def test_a_record_that_cannot_be_stored_is_counted_and_prevents_no_verdict(
    error: Exception, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.analysis.runner.write_record", Mock(side_effect=error))
    analyzer = Analyzer(PrometheusSamples("http://prometheus", client(unreachable)), make_settings(lab, tmp_path))
    before = FAILURES.labels("record")._value.get()  # pylint: disable=protected-access
    assert (await analyzer.run(at_step(), NOW + 5, contract="x"))["verdict"] == "rollback"

    async def is_counted() -> bool:
        return bool(FAILURES.labels("record")._value.get() == before + 1)  # pylint: disable=protected-access

    await eventually(is_counted)


async def test_a_disk_that_hangs_delays_no_analysis_and_takes_one_thread(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(asked: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no such host", request=asked)

    writes, released = list[int](), threading.Event()

    def hang(*_arguments: object) -> None:
        writes.append(1)
        released.wait()

    async def has_begun() -> bool:
        return bool(writes)

    monkeypatch.setattr("app.analysis.runner.write_record", hang)
    monkeypatch.setattr("app.analysis.runner._STORE_TIMEOUT_SECONDS", 0.01)
    analyzer = Analyzer(PrometheusSamples("http://prometheus", client(unreachable)), make_settings(lab, tmp_path))
    try:
        for _ in range(10):
            assert (await analyzer.run(at_step(), NOW + 5))["reason"] == "no-data"
            await eventually(has_begun)
        assert writes == [1]
    finally:
        released.set()


# Synthetic requests ---------------------------------------------------------------------------------------------------


async def test_synthetic_requests_alternate_between_canary_and_stable_and_survive_failures(tmp_path: Path) -> None:
    token = tmp_path / "token"
    tokens: list[str] = []
    asked: list[tuple[str, str, str]] = []
    failing = [True]

    def bank(request: httpx.Request) -> httpx.Response:
        if failing and failing.pop():
            return httpx.Response(503)
        asked.append((request.method, request.url.path, request.headers["X-Canary"]))
        tokens.append(request.headers["Authorization"])
        if request.method == "POST":
            assert request.headers["Idempotency-Key"]
        return httpx.Response(201, json={"id": f"account-{len(asked)}"})

    synthetic = SyntheticTraffic(client(bank), "http://nginx", token, 1000)
    task = asyncio.create_task(synthetic.run())
    await asyncio.sleep(0.05)
    assert asked == [], "it is off"
    synthetic.enabled = True
    token.write_text("first\n", encoding="utf-8")
    while len(asked) < 10:
        await asyncio.sleep(0.02)
    token.write_text("second\n", encoding="utf-8")
    while "Bearer second" not in tokens:
        await asyncio.sleep(0.02)
    assert tokens[0] == "Bearer first"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    transfers = [track for method, path, track in asked if path == "/api/v1/transfers"]
    assert transfers[:2] in (["always", "never"], ["never", "always"])
    assert ("GET", "/api/v1/transactions", "always") in asked


# The service ----------------------------------------------------------------------------------------------------------


async def test_the_service_runs_the_control_loop_and_serves_the_state(lab: Lab, tmp_path: Path) -> None:
    StateFile(tmp_path, tmp_path / "memory").change(lambda _state: done())
    settings = make_settings(
        lab,
        tmp_path,
        poll_interval_seconds=0.01,
        nginx_url="http://127.0.0.1:9",
        docker_url="tcp://127.0.0.1:9",
        slack_webhook_url="http://127.0.0.1:9/",
        synthetic_token_file=tmp_path / "token",
    )
    application = main.create(settings)
    async with application.app.router.lifespan_context(application.app):
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://rollout") as asking:
            # The scale-down delay has elapsed.
            async with asyncio.timeout(BUSY_SECONDS):
                while (status := (await asking.get("/status")).json())["phase"] != "idle":
                    await asyncio.sleep(0.01)
                while 'state="idle",' not in (await asking.get("/metrics")).text:
                    await asyncio.sleep(0.01)
            assert (await asking.get("/health/ready")).status_code == 200
            assert (await asking.get("/health/summary")).json()["phase"] == "idle"
    assert set(status["images"]) == set(SERVICES)
