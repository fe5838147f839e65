"""JSON request bodies: limited before parsing, validated once, and without duplicate names (RFC 7493).

The limit counts nodes: strings, and the characters `{`, `[`, `:` and `,` outside of strings. Without it, a megabyte of
unknown fields would become hundreds of thousands of error objects.
"""

import asyncio
import re
from typing import Any, ClassVar, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from shared.http.problems import Problem

# Bodies up to this size are cheap to parse, whatever they contain.
_SMALL_BYTES = 1024
_LARGE_BYTES = 64 * 1024
# The closing quote is optional, so that an unterminated string is scanned only once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_QUOTE = bytes(set(range(256)) - set(b'"'))
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"{[:,"))


class StrictBody(BaseModel):
    """Base of request bodies: exact types, no unknown fields, and at most `max_nodes` nodes of JSON."""

    model_config = ConfigDict(strict=True, extra="forbid")

    max_nodes: ClassVar[int] = 200
    # Fields that were added after a release, with the default None (see `hashed_content`).
    added_fields: ClassVar[frozenset[str]] = frozenset()


class EmptyBody(StrictBody):
    """Body of requests without fields."""


Body = TypeVar("Body", bound=StrictBody)


def hashed_content(model: type[StrictBody], content: Any) -> Any:
    """Return the content of a request without absent added fields: it has the same hash as in earlier releases."""
    if not model.added_fields or not isinstance(content, dict):
        return content
    return {name: value for name, value in content.items() if name not in model.added_fields or value is not None}


async def read(request: Request, model: type[Body]) -> Body:
    """Return the validated body of a request. Raises what `parse` does."""
    content = await request.body()
    body = parse(content, model)
    if len(content) > _LARGE_BYTES:
        # Yield to other requests: parsing a large body blocks the event loop.
        await asyncio.sleep(0)
    return body


def parse(content: bytes, model: type[Body]) -> Body:
    """Return the validated body; an empty one counts as `{}`.

    Raises pydantic.ValidationError, or Problem for a body with too many nodes or with duplicate names.
    """
    if len(content) > _SMALL_BYTES:
        _check_size(content, model.max_nodes)
    # Call the validator directly: the wrapper `model_validate_json` costs more than the check for duplicates.
    body: Body = model.__pydantic_validator__.validate_json(content or b"{}")
    # Every name is a field and has a colon, so equal numbers of colons and fields mean no duplicates.
    if content.count(b":") != len(body.__pydantic_fields_set__):
        _check_names(content, body)
    return body


def loads(content: bytes, max_nodes: int) -> Any:
    """Return the parsed JSON. Raises Problem if it is invalid or has too many nodes or duplicate names."""
    if len(content) > _SMALL_BYTES:
        _check_size(content, max_nodes)
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise _malformed() from error
    if _names(content) != _keys(document):
        raise _duplicate_name()
    return document


def _check_size(content: bytes, max_nodes: int) -> None:
    """Raise Problem when the body has more than `max_nodes` nodes; in linear time."""
    # Upper bound that includes structural characters inside strings.
    quotes, structure = len(content.translate(None, _NOT_QUOTE)), len(content.translate(None, _NOT_STRUCTURE))
    if quotes // 2 + structure <= max_nodes:
        return
    skeleton, strings = _STRING.subn(b"", content, count=max_nodes + 1)
    if strings <= max_nodes and strings + len(skeleton.translate(None, _NOT_STRUCTURE)) <= max_nodes:
        return
    if skeleton.count(b"{") + skeleton.count(b"[") != skeleton.count(b"}") + skeleton.count(b"]"):
        raise _malformed()
    error = {"pointer": "", "detail": "too many names and values"}
    raise Problem(
        "validation-failed",
        "The body has too many names or values; send less at once.",
        [error],
    )


def _check_names(content: bytes, body: StrictBody) -> None:
    """Raise Problem for duplicate names, also where string values contain colons; slower."""
    fields = _fields_set(body)
    if content.count(b":") != fields and _names(content) != fields:
        raise _duplicate_name()


def _names(content: bytes) -> int:
    """Return the number of names in the objects of a valid JSON text, including duplicates."""
    return _STRING.sub(b"", content).count(b":")


def _fields_set(body: BaseModel) -> int:
    """Return the number of fields set in a body and its nested bodies."""
    nested = [value for value in body.__dict__.values() if isinstance(value, list | BaseModel)]
    items = [item for value in nested for item in (value if isinstance(value, list) else [value])]
    entries = sum(len(value) for value in body.__dict__.values() if isinstance(value, dict))
    return (
        len(body.model_fields_set) + entries + sum(_fields_set(item) for item in items if isinstance(item, BaseModel))
    )


def _keys(document: Any) -> int:
    """Return the number of keys in all objects of a parsed document; iterative, because documents may be deep."""
    count, stack = 0, [document]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            count += len(value)
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
    return count


def _malformed() -> Problem:
    return Problem("malformed-request", "The body is not valid JSON.")


def _duplicate_name() -> Problem:
    return Problem("malformed-request", "An object has a duplicate name; send each name once (RFC 7493).")
