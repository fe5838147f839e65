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
from app.measurements import Prometheus
from app.scalers.kinds import SCALERS
from app.settings import AutoscaleSettings
from app.state import StateFolder
from app.webhook import Door
from shared.http.auth import Authenticator
from shared.http.health import Check, task_check
from shared.http.web import Service, create_app


def create(settings: AutoscaleSettings) -> Service:
    """Return the application, ready to be served."""
    client = httpx.AsyncClient()
    measurements = Prometheus(settings.prometheus_url, client)
    controller = Controller(SCALERS[settings.scaler](settings), measurements, settings, time.time)
    folder = StateFolder(settings.state_dir)
    loop = Loop(controller, folder, settings)
    tasks: list[asyncio.Task[None]] = []

    def checks() -> dict[str, Check]:
        # Not Docker and not Prometheus: without them it still answers, and says what it lacks.
        return {task.get_name(): task_check(task) for task in tasks}

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks.append(asyncio.create_task(loop.run(), name="loop"))
        try:
            yield
        finally:
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # What is half done would have to be found and mended by the next process.
            await controller.settle()
            await client.aclose()
            folder.close()

    service = create_app(
        settings,
        "Brings replicas when an alert asks for them, and takes them away again.",
        routes=api.ROUTES,
        internal_routes=[],
        checks=checks,
        lifespan=lifespan,
        shown=lambda: api.shown(loop.leading, folder.paused is not None, controller.status()),
    )
    state = service.app.state
    state.controller, state.loop, state.folder = controller, loop, folder
    state.door = Door(settings.autoscale_token.get_secret_value(), settings.replay_window)
    state.authenticator = Authenticator(settings.auth_jwks, settings.auth_issuer, settings.auth_audience)
    return service
