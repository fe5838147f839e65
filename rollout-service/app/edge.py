"""NGINX, as far as a rollout goes: which of the prepared configurations it serves by."""

import asyncio

import httpx

_ASK_SECONDS = 2.0
_SELECT_SECONDS = 10.0
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.1


class EdgeFailed(Exception):
    """NGINX does not serve by the configuration that it was given; the message says what is known."""


class Edge:
    """Selects NGINX's configuration, by name, from those that root has prepared.

    `proxy` is the address of the socket proxy, which selects and reloads. Each configuration tells its name at
    /revision.
    """

    def __init__(self, url: str, proxy: str, client: httpx.AsyncClient) -> None:
        self._url = url
        self._proxy = proxy
        self._client = client

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
            answer = await self._client.post(f"{self._proxy}/edge/{name}", timeout=_SELECT_SECONDS)
        except httpx.HTTPError as error:
            raise EdgeFailed(f"configuration {name}: the socket proxy does not answer: {error!r}") from error
        if answer.status_code != httpx.codes.NO_CONTENT:
            raise EdgeFailed(f"configuration {name}: {answer.text[:300]}")
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
