"""NGINX, as far as a rollout goes: which of the prepared configurations it serves by."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx

_ASK_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.1


class EdgeFailed(Exception):
    """NGINX does not serve by the configuration that it was given; the message says what is known."""


class Edge:
    """Chooses NGINX's configuration.

    The folder holds `nginx.conf`, which NGINX reads, and `prepared/NAME.conf`, which were checked with `nginx -t`. Each
    tells its name at /revision. `reload` blocks, and raises what it likes.
    """

    def __init__(self, folder: Path, url: str, client: httpx.AsyncClient, reload: Callable[[], None]) -> None:
        self._folder = folder
        self._url = url
        self._client = client
        self._reload = reload

    async def revision(self) -> str | None:
        """Return the name of the configuration that NGINX serves by; None where it does not answer."""
        try:
            # A connection of its own: one that is kept alive would be answered by a worker from before the reload.
            answer = await self._client.get(
                f"{self._url}/revision", headers={"Connection": "close"}, timeout=_ASK_SECONDS
            )
        except httpx.HTTPError:
            return None
        return answer.text.strip() if answer.status_code == httpx.codes.OK else None

    async def apply(self, name: str) -> None:
        """Have NGINX serve by a prepared configuration, and return when it does. Raises EdgeFailed."""
        try:
            await asyncio.to_thread(self._put, name)
        except OSError as error:
            raise EdgeFailed(f"configuration {name}: {error}") from error
        await asyncio.to_thread(self._reload)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._served(name)
        except TimeoutError as error:
            raise EdgeFailed(f"NGINX does not serve by {name}: it refuses it, or does not answer") from error

    async def _served(self, name: str) -> None:
        # Twice in a row: for a moment old workers may still take a connection.
        answers = 0
        while answers < 2:
            answers = answers + 1 if await self.revision() == name else 0
            await asyncio.sleep(_PAUSE_SECONDS)

    def _put(self, name: str) -> None:
        half = self._folder / "nginx.conf.half"
        half.write_bytes((self._folder / "prepared" / f"{name}.conf").read_bytes())
        half.chmod(0o644)
        half.replace(self._folder / "nginx.conf")
