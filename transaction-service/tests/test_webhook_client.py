"""Connections to receivers: TLS for their name at an address that was checked, once per session."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app import webhook_client
from app.webhook_client import Outcome, WebhookClient
from shared.testing import lab_ca
from shared.testing.timing import BUSY_SECONDS
from tests.receiver import Receiver, receiving

PUBLIC = "93.184.215.14"


class Resolver:
    """Stands for the name server; `lookups` has all names that were looked up."""

    def __init__(self, addresses: dict[str, list[str]]) -> None:
        self.addresses = addresses
        self.lookups: list[str] = []

    def getaddrinfo(self, host: str, port: int, **_options: Any) -> list[tuple[Any, ...]]:
        """Stand for socket.getaddrinfo."""
        self.lookups.append(host)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.addresses[host]]


@pytest.fixture(autouse=True)
def time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow for a busy machine."""
    monkeypatch.setattr(webhook_client, "ATTEMPT_SECONDS", BUSY_SECONDS)


@pytest.fixture
async def client() -> AsyncIterator[WebhookClient]:
    """A client that also connects to receivers on this machine."""
    client = WebhookClient("", allow_private=True)
    yield client
    client.close()


@pytest.fixture
async def public_client() -> AsyncIterator[WebhookClient]:
    """A client as in production."""
    client = WebhookClient("", allow_private=False)
    yield client
    client.close()


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The TLS context of a server named nginx, whose authority clients trust."""
    lab_ca.ensure(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "nginx.crt", tmp_path / "nginx.key")
    return context


async def test_tls_is_for_the_name_and_the_connection_to_the_checked_address(
    client: WebhookClient, certificates: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
):
    resolver = Resolver({"nginx": ["127.0.0.1"], "other": ["127.0.0.1"]})
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    async with receiving(Receiver("https", "nginx"), certificates) as receiver:
        async with client.session(receiver.url) as session:
            for _ in range(3):
                assert await session.post({}, b"{}") == Outcome(200, None)
                # A name server that gives another address meanwhile changes nothing.
                resolver.addresses["nginx"] = ["10.0.0.1"]
        assert resolver.lookups == ["nginx"]
        assert {message.headers["host"] for message in receiver.messages} == {f"nginx:{receiver.port}"}
        async with client.session(f"https://other:{receiver.port}/") as session:
            assert await session.post({}, b"{}") == Outcome(None, "no connection: ConnectError")
        assert len(receiver.messages) == 3


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["169.254.169.254"], [PUBLIC, "10.0.0.1"], ["::ffff:127.0.0.1"]])
async def test_a_name_with_a_private_address_is_not_connected_to(
    public_client: WebhookClient, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
):
    monkeypatch.setattr(socket, "getaddrinfo", Resolver({"rebound.example": addresses}).getaddrinfo)
    async with public_client.session("https://rebound.example/") as session:
        assert await session.post({}, b"{}") == Outcome(None, "the host has a private address")


async def test_an_unknown_name_is_an_error(public_client: WebhookClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "getaddrinfo", Resolver({}).getaddrinfo)
    async with public_client.session("https://unknown.example/") as session:
        assert await session.post({}, b"{}") == Outcome(None, "no connection: gaierror")


async def test_nothing_listens(client: WebhookClient):
    async with receiving(Receiver()) as receiver:
        url = receiver.url
    async with client.session(url) as session:
        assert await session.post({}, b"{}") == Outcome(None, "no connection: ConnectError")


async def test_a_proxy_gets_the_name(monkeypatch: pytest.MonkeyPatch):
    async with receiving(Receiver()) as proxy:
        client = WebhookClient(f"http://127.0.0.1:{proxy.port}", allow_private=True)
        resolver = Resolver({})
        monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
        async with client.session("http://receiver.example:8080/hook") as session:
            assert await session.post({"webhook-id": "m"}, b"{}") == Outcome(200, None)
        client.close()
        assert [message.path for message in proxy.messages] == ["http://receiver.example:8080/hook"]
        assert proxy.messages[0].headers["webhook-id"] == "m" and resolver.lookups == []


async def test_an_endless_response_is_not_read(client: WebhookClient):
    sent, closed = 0, asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
                await writer.drain()
                sent += 65536
        except ConnectionError:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            closed.set()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server, client.session(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as session:
        assert await session.post({}, b"{}") == Outcome(200, None)
        await closed.wait()
    assert sent < 64 * 1024**2
