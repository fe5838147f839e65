"""Responses of the API."""

from typing import Any

import orjson
from starlette.responses import Response


def json_response(content: Any, status: int = 200) -> Response:
    """Return a response with JSON."""
    return Response(orjson.dumps(content), status, media_type="application/json")
