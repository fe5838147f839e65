"""A real HTTP server that receives webhooks and responds as a test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

# A status of `respond` for which nothing is sent.
HANG = 0


@dataclass
class Message:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The event in the body."""
        event: dict[str, Any] = orjson.loads(self.body)
        return event


@dataclass
class Receiver:
    """Records all requests; `respond` maps the number of a request, from 1, to the status of its response."""

    scheme: str = "http"
    host: str = "127.0.0.1"
    respond: Callable[[int], int] = lambda number: 200
    messages: list[Message] = field(default_factory=list)
    port: int = 0
    connections: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The URL to subscribe."""
        return f"{self.scheme}://{self.host}:{self.port}/hook"

    @property
    def positions(self) -> list[int]:
        """The positions of the received events."""
        return [message.event["position"] for message in self.messages]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers["content-length"]))
                self.messages.append(Message(head[0].split()[1], headers, body))
                status = self.respond(len(self.messages))
                if status == HANG:
                    await reader.read()
                    break
                location = f"Location: {self.url}/elsewhere\r\n" if status // 100 == 3 else ""
                writer.write(f"HTTP/1.1 {status} X\r\n{location}Content-Length: 2\r\n\r\nok".encode())
                await writer.drain()
        writer.close()


@asynccontextmanager
async def receiving(receiver: Receiver, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver on a free port of the loopback address."""
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for connection in receiver.connections:
            connection.close()
