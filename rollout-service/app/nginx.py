"""Switches NGINX between the prepared configurations."""

import asyncio

import httpx

_REVISION_TIMEOUT_SECONDS = 2.0
_SELECT_TIMEOUT_SECONDS = 10.0
_APPLY_TIMEOUT_SECONDS = 10.0
_POLL_SECONDS = 0.1


class NginxError(Exception):
    """NGINX does not serve the requested configuration; the message gives the reason."""


class NginxClient:
    """Selects one of the configurations that root has prepared, by name.

    `proxy` is the address of the socket proxy, which selects a configuration and reloads NGINX. Each configuration
    returns its name at /revision.
    """

    def __init__(self, url: str, proxy: str, client: httpx.AsyncClient) -> None:
        self._url = url
        self._proxy = proxy
        self._client = client

    async def revision(self) -> str | None:
        """Return the name of the configuration that NGINX serves; None when it does not respond."""
        try:
            # A new connection: a worker from before the reload would respond on a kept-alive one.
            response = await self._client.get(
                f"{self._url}/revision", headers={"Connection": "close"}, timeout=_REVISION_TIMEOUT_SECONDS
            )
        except httpx.HTTPError:
            return None
        return response.text.strip() if response.status_code == httpx.codes.OK else None

    async def apply(self, name: str) -> None:
        """Apply a prepared configuration, and return once NGINX serves it. Raises NginxError."""
        try:
            response = await self._client.post(f"{self._proxy}/edge/{name}", timeout=_SELECT_TIMEOUT_SECONDS)
        except httpx.HTTPError as error:
            raise NginxError(f"configuration {name}: the socket proxy does not respond: {error!r}") from error
        if response.status_code != httpx.codes.NO_CONTENT:
            raise NginxError(f"configuration {name}: {response.text[:300]}")
        try:
            async with asyncio.timeout(_APPLY_TIMEOUT_SECONDS):
                await self._wait_until_served(name)
        except TimeoutError as error:
            raise NginxError(
                f"configuration {name}: NGINX does not serve it; it rejected the configuration or does not respond"
            ) from error

    async def _wait_until_served(self, name: str) -> None:
        # Twice in a row: old workers may still accept a connection shortly after a reload.
        matches = 0
        while matches < 2:
            matches = matches + 1 if await self.revision() == name else 0
            await asyncio.sleep(_POLL_SECONDS)
