"""Wires rollout-service together."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from app import api, controller
from app.analysis.runner import Judging
from app.analysis.samples import PrometheusSamples
from app.containers import Containers
from app.controller import Controller
from app.edge import Edge
from app.notify import Notifier
from app.settings import RolloutSettings
from app.state_file import StateFile
from app.state_machine import Rollout
from app.synthetic import Synthetic
from shared.http.auth import Authenticator
from shared.http.health import Check, task_check
from shared.http.web import Service, create_app


def create(settings: RolloutSettings) -> Service:
    """Return the application, ready to be served."""
    client = httpx.AsyncClient()
    file = StateFile(settings.state_dir)
    containers = Containers(settings.docker_url, settings.project)
    edge = Edge(settings.edge_url, settings.docker_url.replace("tcp://", "http://", 1), client)
    judging = Judging(PrometheusSamples(settings.prometheus_url, client), settings)
    slack = settings.slack_webhook_url.get_secret_value() if settings.slack_webhook_url else None
    notifier = Notifier(client, slack)
    guard = Controller(file, edge, containers, judging.verdict, notifier.tell, time.time, settings.judge_seconds)
    synthetic = Synthetic(client, settings.bank_url, settings.synthetic_token_file, settings.synthetic_rate)
    tasks: list[asyncio.Task[None]] = []

    def beat(state: Rollout) -> None:
        synthetic.on = state.synthetic and state.phase == "canary" and bool(state.shifted_at)

    def checks() -> dict[str, Check]:
        # Not Docker, NGINX and Prometheus: without them it still watches, and says what it lacks.
        return {task.get_name(): task_check(task) for task in tasks}

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        work = {
            "guard": controller.run(guard, settings.poll_seconds, beat),
            "notifier": notifier.run(),
            "synthetic": synthetic.run(),
        }
        tasks.extend(asyncio.create_task(task, name=name) for name, task in work.items())
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.aclose()

    service = create_app(
        settings,
        "Judges a canary, and takes it back by itself.",
        routes=api.ROUTES,
        internal_routes=[],
        checks=checks,
        lifespan=lifespan,
        shown=lambda: api.shown(file.load()),
    )
    service.app.state.file = file
    service.app.state.authenticator = Authenticator(settings.auth_jwks, settings.auth_issuer, settings.auth_audience)
    return service
