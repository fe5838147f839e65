"""Sends webhooks to receivers on the Internet, and never to an address inside the bank."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from app.domain.webhooks import Receiver, is_public, parse_receiver

# Limit of a whole attempt, name resolution included.
ATTEMPT_SECONDS = 15.0
# Of a longer response the rest is not read, and its connection is not used again.
_MAX_RESPONSE_BYTES = 64 * 1024
_RESOLVER_THREADS = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an attempt: the HTTP status if there was a response, and the error unless it was accepted."""

    status: int | None
    error: str | None


class _NotAllowed(Exception):
    """The receiver is not allowed; the message is for its owner."""


class WebhookClient:
    """An HTTP client for receivers that clients of the bank have chosen.

    It follows no redirects. With a proxy, only the proxy resolves names: it must refuse private addresses.
    """

    def __init__(self, proxy: str, *, allow_private: bool) -> None:
        self.proxy = proxy or None
        self.allow_private = allow_private
        self._tls: ssl.SSLContext | None = None
        # Not the threads of other name resolutions: a name server that does not respond would occupy all of them.
        self._resolver = ThreadPoolExecutor(_RESOLVER_THREADS, "webhook-resolver")

    @asynccontextmanager
    async def session(self, url: str) -> AsyncIterator["Session"]:
        """Open a session with a receiver, with connections of its own."""
        self._tls = self._tls or httpx.create_ssl_context()
        async with httpx.AsyncClient(
            verify=self._tls, proxy=self.proxy, trust_env=False, timeout=ATTEMPT_SECONDS
        ) as http:
            yield Session(self, http, url)

    async def checked_address(self, receiver: Receiver) -> str:
        """Return an address of a receiver. Raises _NotAllowed if one of its addresses is not public, OSError."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._resolver, lambda: socket.getaddrinfo(receiver.host, receiver.port, type=socket.SOCK_STREAM)
        )
        addresses = [str(item[4][0]) for item in found]
        if not self.allow_private and not all(map(is_public, addresses)):
            raise _NotAllowed("the host has a private address")
        return addresses[0]

    def close(self) -> None:
        """Stop resolving names."""
        self._resolver.shutdown(wait=False, cancel_futures=True)


class Session:
    """Consecutive attempts at one receiver, all at the address that was checked before the first one."""

    def __init__(self, client: WebhookClient, http: httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._http = http
        self._url = url
        self._address: str | None = None

    async def post(self, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Send a message. Never raises for errors of the receiver."""
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                status = await self._post(headers, body)
        except TimeoutError:
            return Outcome(None, f"no response within {ATTEMPT_SECONDS:g} seconds")
        except _NotAllowed as error:
            return Outcome(None, str(error))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Outcome(None, f"no connection: {type(error).__name__}")
        if 200 <= status < 300:
            return Outcome(status, None)
        return Outcome(status, f"HTTP status {status}" + ("; redirects are not followed" if status // 100 == 3 else ""))

    async def _post(self, headers: Mapping[str, str], body: bytes) -> int:
        # Checked again: it may have been accepted with other settings.
        try:
            receiver = parse_receiver(self._url, allow_private=self._client.allow_private)
        except ValueError as error:
            raise _NotAllowed(f"the URL {error}") from error
        if self._client.proxy is None and self._address is None:
            self._address = await self._client.checked_address(receiver)
        async with self._http.stream(
            "POST",
            receiver.url(self._address),
            headers={"Host": receiver.authority, **headers},
            content=body,
            extensions={"sni_hostname": receiver.host},
        ) as response:
            received = 0
            async for part in response.aiter_raw():
                received += len(part)
                if received > _MAX_RESPONSE_BYTES:
                    break
            return response.status_code
