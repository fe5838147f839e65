"""Writes the headers of a response and the beginning of its body at once."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a `OneWriteTransport`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, OneWriteTransport(transport, self.loop)))


class OneWriteTransport:
    """Buffers the headers of a response until its body follows, at most until the next iteration of the event loop.

    uvicorn writes them separately. If the process is killed in between, the proxy has received headers and can no
    longer retry the request on another replica.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._headers = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write the buffered headers and the data; buffer the data if it begins a response."""
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
        """Return whether the connection is closing or closed."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Stop reading from the connection."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Resume reading from the connection."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return transport information, such as the socket."""
        return self._transport.get_extra_info(name, default)

    def _flush(self) -> None:
        if self._headers:
            headers, self._headers = self._headers, b""
            self._transport.write(headers)
