"""Health check of a container: exits 0 when the service is ready.

    python -I -S healthcheck.py

It runs every few seconds in each replica, so it imports nothing of the project, and not `socket`, whose import takes
longer than the check.
"""

import _socket
import os
import sys

_TIMEOUT_SECONDS = 4
_MAX_BYTES = 65536


def main() -> int:
    """Request /health/ready from the service on PORT."""
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    connection.settimeout(_TIMEOUT_SECONDS)
    received = b""
    try:
        connection.connect(("127.0.0.1", int(os.environ.get("PORT", "8000"))))
        connection.send(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while len(received) < _MAX_BYTES and (part := connection.recv(_MAX_BYTES)):
            received += part
    except (OSError, ValueError) as error:
        print(f"no response: {error}")
        return 1
    response = received.decode("utf-8", "replace")
    print(response.rpartition("\r\n")[2])
    return 0 if response.split(" ", 2)[1:2] == ["200"] else 1


if __name__ == "__main__":
    sys.exit(main())
