"""The HTTP side of rollout-service: its state, for people and pages. What changes it is app/operate.py."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app import states
from app.state_file import StateFile


async def status(request: Request) -> Response:
    """Return the state; inside the network `monitoring` anybody may see it."""
    file: StateFile = request.app.state.file
    return JSONResponse(states.to_dict(file.load()))


ROUTES = [Route("/status", status)]
