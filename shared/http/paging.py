"""Pagination with opaque cursors for lists sorted by id."""

import base64
import binascii
import uuid
from typing import Annotated, Any

from fastapi import Query
from starlette.responses import Response

from shared.http.responses import json_response
from shared.http.problems import Problem

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

# Parameter types for endpoints.
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Maximum number of items in the response.")]
Cursor = Annotated[
    str | None,
    Query(pattern="^([A-Za-z0-9_-]{22})?$", description="`next_cursor` of the previous page; empty for the first."),
]


def encode_cursor(last_id: str) -> str:
    """Return the cursor that continues after `last_id`."""
    return base64.urlsafe_b64encode(uuid.UUID(last_id).bytes).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Return the id a cursor continues after.

    Raises Problem (validation-failed) if it is not a cursor.
    """
    try:
        return str(uuid.UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True)))
    except (ValueError, binascii.Error) as error:
        errors = [{"pointer": "/query/cursor", "detail": "not a value of `next_cursor`"}]
        raise Problem("validation-failed", "Invalid cursor; use `next_cursor` of the previous page.", errors) from error


def page(items: list[dict[str, Any]], limit: int, continue_after: str | None = None, **fields: Any) -> Response:
    """Return a response with one page of items and additional fields.

    If `items` contains more than `limit` items, there is a next page; also after the id `continue_after`, if given.
    """
    last_id = items[limit - 1]["id"] if len(items) > limit else continue_after
    following = encode_cursor(last_id) if last_id is not None else None
    return json_response({"items": items[:limit], "next_cursor": following, **fields})
