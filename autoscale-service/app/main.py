"""Wires autoscale-service together."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from app import api
from app.controller import Controller
from app.loop import Loop
from app.metrics_client import PrometheusClient
from app.scalers.registry import SCALERS
from app.settings import AutoscaleSettings
from app.state import StateFolder
from app.webhook import WebhookVerifier
from shared.http.auth import Authenticator
from shared.http.health import Check, task_check
from shared.http.web import Service, create_app
from shared.runtime.tasks import cancel_all


def create(settings: AutoscaleSettings) -> Service:
    """Return the application, ready to be served."""
    client = httpx.AsyncClient()
    metrics_client = PrometheusClient(settings.prometheus_url, client)
    controller = Controller(SCALERS[settings.scaler](settings), metrics_client, settings, time.time)
    folder = StateFolder(settings.state_dir)
    loop = Loop(controller, folder, settings)
    tasks: list[asyncio.Task[None]] = []

    def checks() -> dict[str, Check]:
        # Docker and Prometheus are left out: without them the service still responds, and reports failures.
        return {task.get_name(): task_check(task) for task in tasks}

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks.append(asyncio.create_task(loop.run(), name="loop"))
        try:
            yield
        finally:
            await cancel_all(tasks)
            # An interrupted operation would have to be detected and repaired by the next process.
            await controller.wait_idle()
            await client.aclose()
            folder.close()

    service = create_app(
        settings,
        "Scales the services horizontally.",
        routes=api.ROUTES,
        internal_routes=[],
        checks=checks,
        lifespan=lifespan,
        public_fields=lambda: api.public_view(
            loop.leader, folder.paused is not None, settings.dry_run, controller.status()
        ),
    )
    state = service.app.state
    state.controller, state.loop, state.folder = controller, loop, folder
    state.webhook_verifier = WebhookVerifier(
        settings.autoscale_token.get_secret_value(), settings.replay_window_seconds
    )
    state.authenticator = Authenticator(settings.auth_jwks, settings.auth_issuer, settings.auth_audience)
    return service
