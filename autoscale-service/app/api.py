"""The HTTP API: webhooks wake the control loop; operators read the status and pause scaling. Not routed by NGINX."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app import prometheus, webhook
from shared.http import bodies, problems
from shared.http.auth import Caller, require_operator
from shared.http.problems import Problem
from shared.http.responses import json_response
from shared.http.web import LeanRoute, current_caller, documented_problems, lean_documentation

log = logging.getLogger(__name__)

_routes = APIRouter(route_class=LeanRoute)

# Outcomes in autoscale_webhooks_total by problem code.
_OUTCOMES = {"unauthorized": "unauthorized", "payload-too-large": "too_large", "unavailable": "not_ready"}

_MAX_SHOWN = 10


class Accepted(BaseModel):
    """Response to a webhook."""

    alerts: int


class Status(BaseModel):
    """Status of the autoscaler."""

    leader: bool
    paused: str | None
    dry_run: bool
    services: dict[str, dict[str, Any]]


@_routes.post(
    "/webhook/autoscale",
    status_code=202,
    response_model=Accepted,
    responses=documented_problems(400, 401, 413, 415, 422, 500, 503),
    openapi_extra=lean_documentation(webhook.AlertmanagerPayload),
)
async def receive(request: Request) -> Response:
    """Accept alerts from Alertmanager or Grafana and wake the control loop; scaling happens after the response."""
    try:
        alerts = await _alerts(request)
    except (Problem, ValidationError) as error:
        problem = problems.from_exception(error)
        unknown = isinstance(error, webhook.UnknownService)
        outcome = "unknown_service" if unknown else _OUTCOMES.get(problem.code, "malformed")
        prometheus.WEBHOOKS.labels(outcome).inc()
        raise
    controller = request.app.state.controller
    for alert in alerts:
        log.info(
            "alert received", extra={"target": alert.labels.service, "action": alert.labels.action, "now": alert.status}
        )
        controller.record_alert(alert.labels.service, alert.labels.action, firing=alert.status == "firing")
    prometheus.WEBHOOKS.labels("accepted").inc()
    request.app.state.loop.wake()
    return json_response({"alerts": len(alerts)}, 202)


async def _alerts(request: Request) -> list[webhook.Alert]:
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > webhook.MAX_BYTES:
                raise Problem("payload-too-large", f"The body exceeds {webhook.MAX_BYTES} bytes.")
    except ClientDisconnect as error:
        raise Problem("malformed-request", "The body is incomplete.") from error
    request.app.state.webhook_verifier.check(request.headers, body, time.time())
    controller = request.app.state.controller
    if not controller.observed:
        raise problems.unavailable("The services have not been discovered yet; try again.", 5)
    return webhook.read(body, controller.services)


@_routes.get("/status", response_model=Status, responses=documented_problems(400, 422, 500))
async def status(request: Request) -> Response:
    """Show current and desired replicas, reasons, windows and recent actions. Requires no token, like the metrics."""
    state = request.app.state
    controller = state.controller
    document = {"leader": state.loop.leader, "paused": state.folder.paused, "dry_run": controller.dry_run}
    return json_response({**document, "services": controller.status()})


@_routes.post(
    "/pause",
    response_model=Status,
    responses=documented_problems(400, 401, 403, 413, 415, 422, 500, 503),
    openapi_extra=lean_documentation(bodies.EmptyBody, required=False),
)
async def pause(request: Request) -> Response:
    """Pause scaling until it is resumed; a restart keeps the pause. For operators."""
    caller = await _operator(request)
    request.app.state.folder.pause(caller.subject)
    return await status(request)


@_routes.post(
    "/resume",
    response_model=Status,
    responses=documented_problems(400, 401, 403, 413, 415, 422, 500, 503),
    openapi_extra=lean_documentation(bodies.EmptyBody, required=False),
)
async def resume(request: Request) -> Response:
    """Resume scaling. For operators."""
    await _operator(request)
    request.app.state.folder.resume()
    request.app.state.loop.wake()
    return await status(request)


def public_view(leader: bool, paused: bool, dry_run: bool, services: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what unauthenticated clients may see: replicas, bounds and recent decisions, newest first."""
    names = ("current", "ready", "desired", "minimum", "maximum", "reason")
    actions = [{"service": name, **action} for name, service in services.items() for action in service["last_actions"]]
    return {
        "leader": leader,
        "paused": paused,
        "dry_run": dry_run,
        "services": {name: {key: service[key] for key in names} for name, service in services.items()},
        # Without the error text, which may contain Docker's response.
        "decisions": [
            {**action, "failed": "failed" in action}
            for action in sorted(actions, key=lambda action: action["at"], reverse=True)[:_MAX_SHOWN]
        ],
    }


async def _operator(request: Request) -> Caller:
    caller = await current_caller(request)
    require_operator(caller)
    await bodies.read(request, bodies.EmptyBody)
    return caller


ROUTES: list[BaseRoute] = [*_routes.routes]
