"""Socket options of connections to the database and the broker."""

import asyncio
import os
import socket

_SILENCE_SECONDS = 4
_PROBE_SECONDS = 1


def detect_silent_peer(transport: asyncio.BaseTransport) -> None:
    """Let the kernel close the connection when the peer has acknowledged nothing for 4 seconds, data or keepalives.

    Otherwise a host that loses power or network leaves its clients waiting for up to 15 minutes (tcp(7), tcp_retries2).
    """
    existing = transport.get_extra_info("socket")
    # A duplicate, because event loops do not let sockets in use be configured; options belong to the connection.
    with socket.socket(fileno=os.dup(existing.fileno())) as connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", _SILENCE_SECONDS),
            ("TCP_KEEPINTVL", _PROBE_SECONDS),
            ("TCP_USER_TIMEOUT", _SILENCE_SECONDS * 1000),
        ):
            if hasattr(socket, option):  # Linux
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
