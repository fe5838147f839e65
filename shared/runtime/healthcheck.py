"""What a container's healthcheck runs: exit 0 while the service in it is ready.

    python -I -S healthcheck.py

Plain sockets and nothing of the project: it runs every few seconds beside each replica and has to cost little.
"""

import os
import socket
import sys

_SECONDS = 4


def main() -> int:
    """Ask the service on PORT of this container whether it is ready."""
    try:
        with socket.create_connection(("127.0.0.1", int(os.environ.get("PORT", "8000"))), _SECONDS) as connection:
            connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = connection.makefile("rb").read(65536).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        print(f"no answer: {error}")
        return 1
    print(answer.rpartition("\r\n")[2])
    return 0 if answer.split(" ", 2)[1:2] == ["200"] else 1


if __name__ == "__main__":
    sys.exit(main())
