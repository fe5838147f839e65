"""Idempotency keys: one effect per key, and the same response for a repeated request.

The key is stored in the database transaction that writes the effect. See draft-ietf-httpapi-idempotency-key-header.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, get_args

import orjson
from pydantic import BaseModel
from sqlalchemy import Column, LargeBinary, MetaData, Row, SmallInteger, String, Table, and_, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.database import UtcDateTime, Write, is_postgres
from shared.http.problems import Problem

# Two parameters each; a SQLite statement may have 32,766.
_SQLITE_PAIRS = 10_000
# Printable ASCII, quoted (a structured-field string) or bare. A bare key must not contain a comma: a proxy may combine
# two headers into `a, b` (RFC 9110), and it would be unclear which key is meant.
_KEY = re.compile(r'"([\x20\x21\x23-\x7e]{1,255})"|([!-+\--~](?:[ -+\--~]{0,253}[!-+\--~])?)')
# The header as a parameter in an OpenAPI document.
KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "Unique key of this operation; a repeated request with the same key gets the first response.",
    # As `parse_key` accepts it: quoted, or bare without commas and without spaces at either end.
    "schema": {
        "type": "string",
        "maxLength": 257,
        "pattern": '^(?!""$)("[ !#-~]{1,255}"|[!-+\\--~]([ -+\\--~]{0,253}[!-+\\--~])?)$',
    },
}


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The response to the first request with a key."""

    subject: str
    key: str
    request_hash: bytes
    status: int
    body: bytes
    created_at: datetime


_COLUMNS = tuple(field.name for field in fields(StoredResponse))


def table(metadata: MetaData) -> Table:
    """Define the table of idempotency keys in a service's schema."""
    return Table(
        "idempotency_keys",
        metadata,
        Column("subject", String(255), primary_key=True),
        Column("key", String(255), primary_key=True),
        Column("request_hash", LargeBinary(16), nullable=False),
        Column("status", SmallInteger, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("created_at", UtcDateTime, nullable=False, index=True),
    )


def parse_key(header: str | None) -> str:
    """Return the key from an Idempotency-Key header, bare or quoted.

    Raises Problem (idempotency-key-missing) if it is missing, empty, too long or not printable.
    """
    if header is None:
        raise Problem("idempotency-key-missing", "Send an Idempotency-Key header with a unique value.")
    match = _KEY.fullmatch(header.strip())
    if match is None or match[0] == '""':
        raise Problem(
            "idempotency-key-missing",
            "The Idempotency-Key must be 1 to 255 printable ASCII characters; quote it if it contains a comma.",
        )
    return match[1] or match[2]


def request_hash(operation: str, content: Any) -> bytes:
    """Return a 16-byte hash of the operation and its canonical content (see `canonical`)."""
    return hashlib.blake2b(
        operation.encode() + orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=16
    ).digest()


def canonical(model: type[BaseModel], content: Any) -> Any:
    """Return JSON content in the form that `model_dump` returns for a valid request, without validating it.

    A repeated request therefore has the same hash as the first one, even if validation has changed since: missing
    fields get their defaults, and ids are in lower case. Content that does not match the model is returned unchanged.
    """
    if not isinstance(content, dict):
        return content
    defaults = {name: field.default for name, field in model.model_fields.items() if not field.is_required()}
    return {name: _canonical_value(model, name, value) for name, value in (defaults | content).items()}


def _canonical_value(model: type[BaseModel], name: str, value: Any) -> Any:
    field = model.model_fields.get(name)
    if field is None:
        return value
    if isinstance(value, str) and any(getattr(rule, "to_lower", None) for rule in field.metadata):
        return value.lower()
    items = [kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [canonical(items[0], item) for item in value] if items and isinstance(value, list) else value


def reused(key: str) -> Problem:
    """Return the problem for a key that was used for another request."""
    return Problem("idempotency-key-reused", f"The key {key!r} was used for a different request; use a new key.")


async def find(
    connection: AsyncConnection, keys: Table, wanted: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], StoredResponse]:
    """Return the stored responses by (subject, key)."""
    pairs = list(wanted)
    rows: list[Row[Any]] = []
    if is_postgres(connection):
        rows += await connection.exec_driver_sql(
            # OFFSET prevents a sequential scan: the planner cannot know how few keys are looked up.
            "SELECT k.* FROM unnest($1::varchar[], $2::varchar[]) AS w(subject, key) CROSS JOIN LATERAL"
            " (SELECT * FROM idempotency_keys i WHERE i.subject = w.subject AND i.key = w.key OFFSET 0) k",
            ([subject for subject, _ in pairs], [key for _, key in pairs]),
        )
    else:
        for start in range(0, len(pairs), _SQLITE_PAIRS):
            some = pairs[start : start + _SQLITE_PAIRS]
            rows += await connection.execute(select(keys).where(tuple_(keys.c.subject, keys.c.key).in_(some)))
    return {(row.subject, row.key): StoredResponse(*tuple(row)) for row in rows}


def write(keys: Table, responses: Iterable[StoredResponse]) -> Write:
    """Return the write that stores the responses, in key order so that replicas cannot deadlock.

    It raises IntegrityError if another replica has just used one of the keys: roll back and retry the batch.
    """
    ordered = sorted(responses, key=lambda response: (response.subject, response.key))
    return Write.of(keys, _COLUMNS, ordered)


async def purge(
    connection: AsyncConnection, keys: Table, *, before: datetime, keep_subjects: Iterable[str], limit: int
) -> int:
    """Delete up to `limit` keys older than `before`, except those of `keep_subjects`; return the number deleted."""
    old = select(keys.c.subject, keys.c.key).where(
        and_(keys.c.created_at < before, keys.c.subject.not_in(list(keep_subjects)))
    )
    some = delete(keys).where(tuple_(keys.c.subject, keys.c.key).in_(old.limit(limit)))
    return (await connection.execute(some)).rowcount
