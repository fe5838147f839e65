"""How responses leave the process: a response's headers and the beginning of its body in one write."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a `OneWriteTransport`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, OneWriteTransport(transport, self.loop)))


class OneWriteTransport:
    """Hold the headers of a response back until its body follows, but not beyond this round of the event loop.

    uvicorn writes them one after the other. A process that is killed in between has sent headers, and a proxy that
    has received headers can no longer repeat the request on another replica.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._headers = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write what is held back and the data, or hold the data back if it begins a response."""
        if self._headers:
            data, self._headers = self._headers + data, b""
        elif data[:5] == b"HTTP/":
            self._headers = bytes(data)
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Close the connection once everything is written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Tell whether the connection is closing or closed."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Stop passing on what is received."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Pass on again what is received."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the connection knows by this name, such as its socket."""
        return self._transport.get_extra_info(name, default)

    def _flush(self) -> None:
        if self._headers:
            headers, self._headers = self._headers, b""
            self._transport.write(headers)
