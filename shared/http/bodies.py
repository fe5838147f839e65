"""JSON request bodies: bounded before they are parsed, validated once, and without duplicate names (RFC 7493).

What a body costs is bounded by its nodes: strings, and the characters `{`, `[`, `:` and `,` outside of strings. A
megabyte of unknown fields would otherwise become hundreds of thousands of error objects.
"""

import asyncio
import re
from typing import Any, ClassVar, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from shared.http.problems import Problem

# Any body up to this size is cheap, whatever it holds.
_SMALL_BYTES = 1024
_LARGE_BYTES = 64 * 1024
# The closing quote is optional, so that an unterminated string is scanned once and not from each of its quotes.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_QUOTE = bytes(set(range(256)) - set(b'"'))
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"{[:,"))


class StrictBody(BaseModel):
    """Base of request bodies: exact types, no unknown fields, and at most `max_nodes` nodes of JSON."""

    model_config = ConfigDict(strict=True, extra="forbid")

    max_nodes: ClassVar[int] = 200


class EmptyBody(StrictBody):
    """Body of requests that need none."""


Body = TypeVar("Body", bound=StrictBody)


async def read(request: Request, model: type[Body]) -> Body:
    """Return the validated body of a request. Raises what `parse` does."""
    content = await request.body()
    body = parse(content, model)
    if len(content) > _LARGE_BYTES:
        # Other requests have their turn before the endpoint goes on.
        await asyncio.sleep(0)
    return body


def parse(content: bytes, model: type[Body]) -> Body:
    """Return the validated body; an empty one counts as `{}`.

    Raises pydantic.ValidationError, or Problem for a body with too many nodes or with duplicate names.
    """
    if len(content) > _SMALL_BYTES:
        _check_size(content, model.max_nodes)
    # Straight to the validator: the wrapper `model_validate_json` costs more than the check for duplicates.
    body: Body = model.__pydantic_validator__.validate_json(content or b"{}")
    # Every name has a colon and every name is a field, so with as many colons as fields no name occurs twice.
    if content.count(b":") != len(body.__pydantic_fields_set__):
        _check_names(content, body)
    return body


def loads(content: bytes, max_nodes: int) -> Any:
    """Return the parsed JSON. Raises Problem for what is no JSON, has too many nodes or duplicate names."""
    if len(content) > _SMALL_BYTES:
        _check_size(content, max_nodes)
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise _malformed() from error
    if _names(content) != _keys(document):
        raise _duplicate_name()
    return document


def _check_size(content: bytes, most: int) -> None:
    """Raise Problem when the body has more than `most` nodes; in linear time, stopping early."""
    # Also counts what is inside of strings, which few bodies have much of.
    quotes, structure = len(content.translate(None, _NOT_QUOTE)), len(content.translate(None, _NOT_STRUCTURE))
    if quotes // 2 + structure <= most:
        return
    skeleton, strings = _STRING.subn(b"", content, count=most + 1)
    if strings <= most and strings + len(skeleton.translate(None, _NOT_STRUCTURE)) <= most:
        return
    if skeleton.count(b"{") + skeleton.count(b"[") != skeleton.count(b"}") + skeleton.count(b"]"):
        raise _malformed()
    error = {"pointer": "", "detail": "has more names and values than any valid request"}
    raise Problem("validation-failed", "The body has too many names or values.", [error])


def _check_names(content: bytes, body: StrictBody) -> None:
    """Raise Problem unless the text has as many names as fields were set; slower, as texts may hold colons."""
    fields = _fields_set(body)
    if content.count(b":") != fields and _names(content) != fields:
        raise _duplicate_name()


def _names(content: bytes) -> int:
    """Return how many names the objects of a valid JSON text have, duplicates included."""
    return _STRING.sub(b"", content).count(b":")


def _fields_set(body: BaseModel) -> int:
    """Return how many fields were given in a body and in the bodies inside it."""
    nested = [value for value in body.__dict__.values() if isinstance(value, list | BaseModel)]
    items = [item for value in nested for item in (value if isinstance(value, list) else [value])]
    return len(body.model_fields_set) + sum(_fields_set(item) for item in items if isinstance(item, BaseModel))


def _keys(document: Any) -> int:
    """Return how many keys all objects of a parsed document have; not recursive, for documents may be deep."""
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
    return Problem("malformed-request", "An object of the body has a name twice; give each once (RFC 7493).")
