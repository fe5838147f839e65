"""Health check of a container: exits 0 when the service is ready.

    python -I -S healthcheck.py

Uses plain sockets and imports nothing of the project, because it runs every few seconds in each replica.
"""

import os
import socket
import sys

_TIMEOUT_SECONDS = 4


def main() -> int:
    """Request /health/ready from the service on PORT."""
    try:
        with socket.create_connection(
            ("127.0.0.1", int(os.environ.get("PORT", "8000"))), _TIMEOUT_SECONDS
        ) as connection:
            connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            response = connection.makefile("rb").read(65536).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        print(f"no response: {error}")
        return 1
    print(response.rpartition("\r\n")[2])
    return 0 if response.split(" ", 2)[1:2] == ["200"] else 1


if __name__ == "__main__":
    sys.exit(main())
