"""Free ports, for stacks that run alongside others."""

import secrets
import socket
from contextlib import ExitStack

_MAX_ATTEMPTS = 100


def free_port(count: int = 1) -> int:
    """Return the first of `count` consecutive free ports on the loopback address.

    They are below the ephemeral port range. Raises RuntimeError if none are found.
    """
    for _ in range(_MAX_ATTEMPTS):
        first = secrets.choice(range(20000, 30000))
        with ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise RuntimeError(f"no {count} consecutive free ports found")
