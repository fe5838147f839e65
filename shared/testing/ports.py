"""Free ports, for stacks that run alongside others."""

import random
import socket

# Below the ephemeral port range.
_PORTS = range(20_000, 30_000)
_BLOCK = 100


class _Reserved:
    """The ports that this process has reserved and not handed out yet."""

    ports = range(0)


def free_port(count: int = 1) -> int:
    """Return the first of `count` consecutive free ports on the loopback address; no call returns a port twice.

    Ports of concurrent test runs differ: each process reserves blocks of them. Raises RuntimeError if none are free.
    """
    for _ in range(len(_PORTS)):
        if len(_Reserved.ports) < count:
            _Reserved.ports = _reserve_block()
        ports, _Reserved.ports = _Reserved.ports[:count], _Reserved.ports[count:]
        if all(map(_is_free, ports)):
            return ports[0]
    raise RuntimeError(f"no {count} consecutive free ports found")


def _reserve_block() -> range:
    """Reserve a block by binding its first port until this process ends."""
    for first in random.sample(_PORTS[::_BLOCK], len(_PORTS) // _BLOCK):  # nosec B311
        with socket.socket() as guard:
            try:
                guard.bind(("127.0.0.1", first))
            except OSError:
                continue
            guard.detach()
            return range(first + 1, first + _BLOCK)
    raise RuntimeError("all blocks of ports are reserved")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
