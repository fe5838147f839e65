"""The HTTP API of rollout-service: reads the state only; app/cli.py changes it."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app import state_machine
from app.analysis.model import REASONS
from app.state_file import StateFile
from app.state_machine import Rollout

_MAX_EVENTS = 10


async def status(request: Request) -> Response:
    """Return the state, without authentication: only the network `monitoring` reaches this route."""
    file: StateFile = request.app.state.file
    return JSONResponse(state_machine.to_dict(file.load()))


def public_view(state: Rollout) -> dict[str, Any]:
    """Return what unauthenticated clients may see: phase, weight, verdict, outcomes, latest events (newest first).

    Reasons are limited to those of verdicts: others contain names or an operator's text.
    """
    verdict = {"verdict": state.verdict["verdict"], "reason": state.verdict["reason"]} if state.verdict else None
    return {
        "phase": state.phase,
        "release": state.version,
        "steps": state.steps,
        "step": state.step,
        "weight": state.weight,
        "serving": state.serving,
        "outcome": state.outcome,
        "waiting_for_approval": bool(state.waiting_since),
        "analysis_skipped": bool(state.skip_analysis),
        "verdict": verdict,
        "outcomes": state.verdict.get("outcomes", []) if state.in_progress else [],
        "history": [_public_event(event) for event in reversed(state.history[-_MAX_EVENTS:])],
    }


def _public_event(event: Mapping[str, Any]) -> dict[str, Any]:
    # Without the detail of a verdict, which may name what only operators see.
    reason = event["reason"].partition(": ")[0]
    reason = reason if reason in REASONS else ""
    return {"at": event["at"], "phase": event["phase"], "weight": event["weight"], "reason": reason}


ROUTES = [Route("/status", status)]
