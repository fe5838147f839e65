"""Buckets of clients: the clients of a service in a few groups by hash, for metrics.

A canary's clients stay its clients, so one of them with unusual requests changes the mix of all responses. A fault of
the release shows in many buckets, a client's habits in one (docs/adr/0021-outcomes-by-client.md).
"""

import base64
from collections.abc import Mapping
from functools import lru_cache
from zlib import crc32

import orjson

BUCKETS = 64
# Longer tokens are parsed on each request, so that the cache stays small.
_MAX_CACHED_BYTES = 2048


def bucket_of_request(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the bucket of a request's client, as NGINX identifies it; None if it does not say who it is.

    The token is not verified: a release that rejects every token must show in the buckets of its clients.
    """
    if client := headers.get(b"x-client-id"):
        return bucket_of(client)
    authorization = headers.get(b"authorization", b"")
    subject = (_subject if len(authorization) <= _MAX_CACHED_BYTES else _subject.__wrapped__)(authorization)
    return bucket_of(subject) if subject else None


def bucket_of(client: bytes) -> str:
    """Return the bucket of a client."""
    return str(crc32(client) % BUCKETS)


@lru_cache(maxsize=1024)
def _subject(authorization: bytes) -> bytes:
    """Return the subject of a token without verifying it; empty if there is none."""
    try:
        payload = authorization.split(b".")[1]
        subject = orjson.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))["sub"]
    except (ValueError, LookupError, TypeError):
        return b""
    return subject.encode(errors="replace") if isinstance(subject, str) else b""
