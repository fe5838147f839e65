"""The HTTP side of rollout-service: its state, for people and pages. What changes it is app/cli.py."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app import state_machine
from app.analysis.model import REASONS
from app.state_file import StateFile
from app.state_machine import Rollout

_MOST_SHOWN = 10


async def status(request: Request) -> Response:
    """Return the state; inside the network `monitoring` anybody may see it."""
    file: StateFile = request.app.state.file
    return JSONResponse(state_machine.to_dict(file.load()))


def shown(state: Rollout) -> dict[str, Any]:
    """Return what anybody may see: where the rollout is and how it got there, the newest first.

    Of the reasons only those of verdicts: the others name people, or are what a person wrote.
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
        "verdict": verdict,
        "history": [_note(note) for note in reversed(state.history[-_MOST_SHOWN:])],
    }


def _note(note: Mapping[str, Any]) -> dict[str, Any]:
    reason = note["reason"] if note["reason"] in REASONS else ""
    return {"at": note["at"], "phase": note["phase"], "weight": note["weight"], "reason": reason}


ROUTES = [Route("/status", status)]
