"""Webhooks, status and pause over HTTP: forged, replayed, oversized or unknown input is rejected."""

import asyncio
import base64
import hashlib
import hmac
from typing import Any

import httpx
import orjson
import pytest

from shared.prometheus.registry import REGISTRY
from shared.testing.fixtures import Lab
from shared.http.web import Service
from shared.testing.timing import StoppedClock
from app import api
from app.settings import AutoscaleSettings
from tests.support import ACCOUNT, TOKEN, FakeCluster, until

ALERT = {
    "status": "firing",
    "labels": {"alertname": "ScaleOutNeeded", "service": ACCOUNT, "action": "scale_out", "receiver": "autoscaler"},
    "annotations": {"summary": "more"},
    "startsAt": "2026-01-01T12:00:00.123Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus:9090/graph",
    "fingerprint": "c8d7b2a1",
}
# Payloads of Alertmanager 0.28 and Grafana 12 (shortened).
ALERTMANAGER: dict[str, Any] = {
    "receiver": "autoscaler",
    "status": "firing",
    "alerts": [ALERT],
    "groupLabels": {"alertname": "ScaleOutNeeded"},
    "commonLabels": {},
    "commonAnnotations": {},
    "externalURL": "http://alertmanager:9093",
    "version": "4",
    "groupKey": '{}/{receiver="autoscaler"}:{alertname="ScaleOutNeeded"}',
    "truncatedAlerts": 0,
}
GRAFANA: dict[str, Any] = {
    **ALERTMANAGER,
    "alerts": [{**ALERT, "values": {"A": 1.4}, "valueString": "[]", "silenceURL": "http://grafana", "orgId": 1}],
    "version": "1",
    "orgId": 1,
    "title": "[FIRING:1] ScaleOutNeeded",
    "state": "alerting",
    "message": "",
}
HOOK = "/webhook/autoscale"


def about(**labels: str) -> dict[str, Any]:
    return {**ALERTMANAGER, "alerts": [{**ALERT, "labels": {**ALERT["labels"], **labels}}]}  # type: ignore[dict-item]


def signed(content: bytes, when: float, secret: str = TOKEN) -> dict[str, str]:
    moment = str(int(when))
    signature = hmac.new(secret.encode(), moment.encode() + b":" + content, hashlib.sha256).hexdigest()
    return {"X-Grafana-Alerting-Signature": signature, "X-Grafana-Alerting-Timestamp": moment, "Authorization": ""}


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("autoscale_webhooks_total", {"outcome": outcome}) or 0.0


@pytest.mark.parametrize("payload", [ALERTMANAGER, GRAFANA], ids=["Alertmanager", "Grafana"])
async def test_an_alert_is_accepted_and_wakes_the_loop(
    client: httpx.AsyncClient, cluster: FakeCluster, payload: dict[str, Any]
) -> None:
    cluster.load = lambda _now: 400
    before = counted("accepted")
    response = await client.post(HOOK, json=payload)
    assert (response.status_code, response.json()) == (202, {"alerts": 1}) and counted("accepted") == before + 1
    await until(lambda: cluster.changes)
    assert cluster.changes[0][1] == 4
    assert (await client.get("/status")).json()["services"][ACCOUNT]["alert_active"]


async def test_alerts_of_one_webhook_are_resolved_separately(client: httpx.AsyncClient) -> None:
    both = [ALERT, {**ALERT, "status": "resolved", "endsAt": "2026-01-01T12:05:00Z"}]
    response = await client.post(HOOK, json={**ALERTMANAGER, "alerts": both})
    assert response.json() == {"alerts": 2}
    assert not (await client.get("/status")).json()["services"][ACCOUNT]["alert_active"]


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer wrong-secret-of-a-webhook",
        f"Bearer {TOKEN}x",
        "Basic !!",
        f"Digest {TOKEN}",
        f"Basic {TOKEN}",
    ],
)
async def test_a_wrong_secret_is_rejected(client: httpx.AsyncClient, authorization: str) -> None:
    before = counted("unauthorized")
    response = await client.post(HOOK, json=ALERTMANAGER, headers={"Authorization": authorization})
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["content-type"] == "application/problem+json" and "WWW-Authenticate" in response.headers
    assert counted("unauthorized") == before + 1


async def test_the_secret_is_accepted_as_a_basic_password(client: httpx.AsyncClient) -> None:
    credentials = base64.b64encode(f"grafana:{TOKEN}".encode()).decode()
    response = await client.post(HOOK, json=GRAFANA, headers={"Authorization": f"Basic {credentials}"})
    assert response.status_code == 202


async def test_a_signature_is_accepted_once_within_the_replay_window(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = StoppedClock()
    monkeypatch.setattr(api, "time", clock)
    content, now = orjson.dumps(GRAFANA), clock.now
    headers = signed(content, now)
    assert (await client.post(HOOK, content=content, headers=headers)).status_code == 202
    refused = [
        (content, headers, "received before"),
        (content, signed(content, now - 301), "older than"),
        (content, signed(content, now + 301), "older than"),
        (content + b" ", headers, "Invalid signature"),
        (content, signed(content, now + 1, "another secret"), "Invalid signature"),
        (content, {**headers, "X-Grafana-Alerting-Timestamp": str(int(now) + 1)}, "Invalid signature"),
        (content, {**signed(content, now + 2), "X-Grafana-Alerting-Timestamp": ""}, "Invalid signature"),
        # The secret does not make up for an invalid signature.
        (content + b" ", {**headers, "Authorization": f"Bearer {TOKEN}"}, "Invalid signature"),
    ]
    for body, given, why in refused:
        response = await client.post(HOOK, content=body, headers=given)
        assert response.status_code == 401 and why in response.json()["detail"], why


async def test_an_invalid_timestamp_is_rejected(client: httpx.AsyncClient) -> None:
    signature = hmac.new(TOKEN.encode(), b"soon:{}", hashlib.sha256).hexdigest()
    headers = {"X-Grafana-Alerting-Signature": signature, "X-Grafana-Alerting-Timestamp": "soon"}
    assert (await client.post(HOOK, content=b"{}", headers=headers)).status_code == 401


@pytest.mark.parametrize("service", ["postgres", "nats", "autoscale-service", "account-service-canary", "x" * 101])
async def test_an_unknown_service_rejects_the_whole_webhook(
    client: httpx.AsyncClient, cluster: FakeCluster, service: str
) -> None:
    response = await client.post(HOOK, json=about(service=service))
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/alerts/0/labels/service"
    mixed = {**ALERTMANAGER, "alerts": [ALERT, *about(service=service)["alerts"]]}
    before = counted("unknown_service") + counted("malformed")
    assert (await client.post(HOOK, json=mixed)).status_code == 422
    assert counted("unknown_service") + counted("malformed") == before + 1
    await asyncio.sleep(0.05)
    assert not (await client.get("/status")).json()["services"][ACCOUNT]["alert_active"]
    assert cluster.changes == []


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[]", 422),
        (b"null", 422),
        (orjson.dumps({**ALERTMANAGER, "alerts": []}), 422),
        (orjson.dumps({**ALERTMANAGER, "version": "5"}), 422),
        (orjson.dumps({**ALERTMANAGER, "status": "burning"}), 422),
        (orjson.dumps({**ALERTMANAGER, "alerts": [{**ALERT, "startsAt": "noon"}]}), 422),
        (orjson.dumps({**ALERTMANAGER, "alerts": [ALERT] * 101}), 422),
        (orjson.dumps({**GRAFANA, "state": "fine"}), 422),
        (orjson.dumps(about(action="destroy")), 422),
        (b" " * (256 * 1024 + 1), 413),
        (b" " * (1024 * 1024 + 1), 413),
    ],
)
async def test_an_invalid_payload_is_rejected(client: httpx.AsyncClient, content: bytes, status: int) -> None:
    outcome = "too_large" if status == 413 else "malformed"
    before = counted(outcome)
    response = await client.post(HOOK, content=content)
    assert response.status_code == status and response.headers["content-type"] == "application/problem+json"
    assert counted(outcome) == before + 1


async def test_webhooks_are_unavailable_before_the_first_pass(client: httpx.AsyncClient, application: Service) -> None:
    application.app.state.controller.observed = False
    response = await client.post(HOOK, json=ALERTMANAGER)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")


async def test_an_operator_pauses_and_resumes(client: httpx.AsyncClient, cluster: FakeCluster, lab: Lab) -> None:
    paused = await client.post("/pause", headers=lab.operator())
    assert (paused.status_code, paused.json()["paused"]) == (200, "operator")
    cluster.load = lambda _now: 400
    await client.post(HOOK, json=ALERTMANAGER)
    await asyncio.sleep(0.1)
    assert cluster.changes == []
    assert (await client.post("/resume", headers=lab.operator())).json()["paused"] is None
    await until(lambda: cluster.changes)


@pytest.mark.parametrize("path", ["/pause", "/resume"])
async def test_only_operators_pause_and_resume(client: httpx.AsyncClient, lab: Lab, path: str) -> None:
    # The webhook secret is not valid for operators.
    assert (await client.post(path)).status_code == 401
    assert (await client.post(path, headers=lab.headers("alice"))).status_code == 403


async def test_status_metrics_health_and_openapi_document_are_served(client: httpx.AsyncClient) -> None:
    status = (await client.get("/status")).json()
    assert status["leader"] and status["paused"] is None and status["dry_run"] is False
    assert status["services"][ACCOUNT]["reason"] == "at-minimum"
    metrics = (await client.get("/metrics")).text
    # The label is the scaled service, not the exporting one.
    assert 'autoscale_replicas{kind="current",service="account-service"' in metrics
    assert 'autoscale_failures_total{operation="create",service="account-service"' in metrics
    assert (await client.get("/health/ready")).json() == {"status": "ok", "checks": {"loop": "ok"}}
    document = (await client.get("/docs/autoscale-service/openapi.json")).json()
    assert sorted(document["paths"]) == ["/pause", "/resume", "/status", HOOK]


async def test_the_public_view_has_no_names_and_no_error_texts(
    client: httpx.AsyncClient, cluster: FakeCluster, lab: Lab, application: Service
) -> None:
    cluster.load = lambda _now: 400
    await client.post(HOOK, json=ALERTMANAGER)
    await until(lambda: application.app.state.controller.status()[ACCOUNT]["last_actions"])
    cluster.fails = lambda operation: operation == "create"
    cluster.load = lambda _now: 4000
    await client.post(HOOK, json=ALERTMANAGER)
    await until(lambda: len(application.app.state.controller.status()[ACCOUNT]["last_actions"]) == 2)
    await client.post("/pause", headers=lab.operator())
    response = await client.get("/health/summary")
    summary = response.json()
    assert summary["service"] == "autoscale-service" and summary["ready"] and summary["paused"] is True
    shown = summary["services"][ACCOUNT]
    assert (shown["current"], shown["minimum"], shown["maximum"]) == (4, 2, 8)
    failed, done = summary["decisions"]
    assert (done["service"], done["from"], done["to"], done["failed"]) == (ACCOUNT, 2, 4, False)
    assert failed["failed"] is True and failed["at"] >= done["at"]
    assert "operator" not in response.text and "simulated" not in response.text


class TestDryRun:
    """The application with the setting DRY_RUN."""

    @pytest.fixture
    def settings(self, settings: AutoscaleSettings) -> AutoscaleSettings:
        return settings.model_copy(update={"dry_run": True})

    async def test_the_status_and_the_public_view_show_it(
        self, client: httpx.AsyncClient, cluster: FakeCluster, application: Service
    ) -> None:
        cluster.load = lambda _now: 400
        await client.post(HOOK, json=ALERTMANAGER)
        await until(lambda: application.app.state.controller.status()[ACCOUNT]["desired"] == 4)
        for view in ("/status", "/health/summary"):
            shown = (await client.get(view)).json()
            assert shown["dry_run"] is True and shown["services"][ACCOUNT]["desired"] == 4
        assert cluster.changes == []
