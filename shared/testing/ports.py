"""Free ports, for stacks that run beside others."""

import secrets
import socket
from contextlib import ExitStack

_TRIES = 100


def free_port(count: int = 1) -> int:
    """Return the first of `count` neighbouring ports on the loopback address that are free now.

    They lie below those that the system gives to outgoing connections. Raises RuntimeError when there are none.
    """
    for _ in range(_TRIES):
        first = secrets.choice(range(20000, 30000))
        with ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise RuntimeError(f"found no {count} free neighbouring ports")
