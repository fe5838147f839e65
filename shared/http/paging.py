"""Opaque cursors for lists sorted by id."""

import base64
import binascii
import uuid
from typing import Annotated, Any

import orjson
from fastapi import Query
from starlette.responses import Response

from shared.http.problems import Problem

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

# How endpoints declare their parameters.
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most items in the answer.")]
Cursor = Annotated[
    str | None,
    Query(pattern="^([A-Za-z0-9_-]{22})?$", description="`next_cursor` of the page before; absent or empty at first."),
]


def encode_cursor(last_id: str) -> str:
    """Return the cursor that continues after `last_id`."""
    return base64.urlsafe_b64encode(uuid.UUID(last_id).bytes).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Return the id a cursor continues after.

    Raises Problem (validation-failed) for a text that no response ever contained.
    """
    try:
        return str(uuid.UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True)))
    except (ValueError, binascii.Error) as error:
        errors = [{"pointer": "/query/cursor", "detail": "not a cursor from `next_cursor`"}]
        raise Problem("validation-failed", "The cursor is not one that we gave out.", errors) from error


def page(items: list[dict[str, Any]], limit: int, **about: Any) -> Response:
    """Answer with a page, and what there is to say about it.

    `items` has one more than `limit` where there are more to come.
    """
    following = encode_cursor(items[limit - 1]["id"]) if len(items) > limit else None
    content = orjson.dumps({"items": items[:limit], "next_cursor": following, **about})
    return Response(content, media_type="application/json")
