"""Wires rollout-service together."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI

from app import api, contract, controller
from app.analysis.model import Criterion
from app.analysis.runner import Analyzer
from app.analysis.samples import PrometheusSamples
from app.clock import Clock
from app.containers import Containers
from app.contract_probe import ContractProbe
from app.controller import Controller
from app.nginx import NginxClient
from app.notify import Notifier
from app.settings import RolloutSettings
from app.state_file import StateFile
from app.state_machine import Rollout
from app.synthetic import SyntheticTraffic
from shared.http.auth import Authenticator
from shared.http.health import Check, task_check
from shared.http.web import Service, create_app
from shared.runtime.tasks import cancel_all


def create(settings: RolloutSettings) -> Service:
    """Return the application, ready to be served."""
    # An analysis sends dozens of queries at once; each would need a new connection otherwise.
    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=100, max_keepalive_connections=100))
    file = StateFile(settings.state_dir, settings.memory_dir)
    clock = Clock()
    containers = Containers(settings.docker_url, settings.project)
    nginx = NginxClient(settings.nginx_url, settings.docker_url.replace("tcp://", "http://", 1), client)
    criteria = [Criterion(**metric.model_dump()) for metric in settings.analysis_metrics]
    analyzer = Analyzer(PrometheusSamples(settings.prometheus_url, client, criteria=criteria), settings)
    slack = settings.slack_webhook_url.get_secret_value() if settings.slack_webhook_url else None
    notifier = Notifier(client, slack)
    probe = ContractProbe(settings.bank_url, settings.synthetic_token_file, contract.load())

    async def analyze(state: Rollout, now: float) -> Mapping[str, Any]:
        verdict = await analyzer.run(state, now, probe.requests, probe.difference)
        return {**verdict, "contract": probe.status}

    loop = Controller(
        file,
        nginx,
        containers,
        analyze,
        notifier.notify,
        clock,
        settings.analysis_interval_seconds,
        settings.lease_seconds,
    )
    synthetic = SyntheticTraffic(client, settings.bank_url, settings.synthetic_token_file, settings.synthetic_rate)
    tasks: list[asyncio.Task[None]] = []

    def on_pass(state: Rollout) -> None:
        synthetic.enabled = state.synthetic and state.phase == "canary" and bool(state.step_started_at)
        probe.update(state)

    def checks() -> dict[str, Check]:
        # Docker, NGINX and Prometheus are left out: without them the service still runs, and reports failures.
        return {task.get_name(): task_check(task) for task in tasks}

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        work = {
            "controller": controller.run(loop, settings.poll_interval_seconds, on_pass),
            "notifier": notifier.run(),
            "synthetic": synthetic.run(),
            "contract": probe.run(),
        }
        tasks.extend(asyncio.create_task(task, name=name) for name, task in work.items())
        try:
            yield
        finally:
            await cancel_all(tasks)
            await client.aclose()

    service = create_app(
        settings,
        "Analyzes canaries and rolls them back automatically.",
        routes=api.ROUTES,
        internal_routes=[],
        checks=checks,
        lifespan=lifespan,
        public_fields=lambda: api.public_view(file.load()),
    )
    service.app.state.file = file
    service.app.state.authenticator = Authenticator(settings.auth_jwks, settings.auth_issuer, settings.auth_audience)
    return service
