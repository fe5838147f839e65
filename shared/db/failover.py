"""Connects to the PostgreSQL host that accepts writes; a failover may make another host the primary."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from shared.runtime.sockets import detect_silent_peer


async def connect_to_primary(
    host: str | Sequence[str] | None = None, port: int | Sequence[int] | None = None, **options: Any
) -> Any:
    """Return a connection of asyncpg to the first host that accepts writes.

    All hosts are tried at once, so that a silent one delays nothing. Raises ConnectionError if none accepts writes, and
    the error of the only host if there is one.
    """
    if host is None or isinstance(host, str) or port is None or isinstance(port, int):
        return await _connect(host, port, options)
    options["target_session_attrs"] = "read-write"
    attempts = [asyncio.create_task(_connect(*address, options)) for address in zip(host, port, strict=True)]
    errors: list[str] = []
    primary = None
    try:
        for attempt in asyncio.as_completed(attempts):
            try:
                primary = await attempt
                return primary
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                errors.append(repr(error))
        raise ConnectionError(f"no PostgreSQL host accepts writes: {'; '.join(errors)}")
    finally:
        for task in attempts:
            task.cancel()
        for other in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(other, asyncpg.Connection) and other is not primary:
                other.terminate()


async def _connect(host: Any, port: Any, options: dict[str, Any]) -> Any:
    connection = await asyncpg.connect(host=host, port=port, **options)
    # asyncpg has no option for it.
    detect_silent_peer(connection._transport)  # pylint: disable=protected-access
    return connection
