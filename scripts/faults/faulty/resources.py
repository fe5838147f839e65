"""Faults in the use of resources: memory and CPU time."""

import time
from typing import Any

from . import Patch
from .requests import Handle, wrap_requests

LEAKED_BYTES = 20_000
_CPU_FACTOR = 3
# Longest busy loop at once, so that the event loop keeps responding to health checks.
_MAX_BURN_SECONDS = 0.05


_kept: list[bytes] = []


def remember(block: bytes) -> None:
    """Keep a block of memory for good."""
    _kept.append(block)


def leak(patch: Patch) -> None:
    """Keep 20 KB for each request."""

    async def keep(handle: Handle, service: Any, scope: Any, receive: Any, send: Any) -> None:
        # Not zeros: the pages of a zeroed allocation would not become resident.
        remember(b"\xff" * LEAKED_BYTES)
        await handle(service, scope, receive, send)

    wrap_requests(patch, keep)


class _Burner:
    """Burns CPU time until the process has used a multiple of what it would have used."""

    def __init__(self) -> None:
        self._started = time.process_time()
        self._burned = 0.0

    def burn(self) -> None:
        """Burn what is owed since the last call, at most 50 ms."""
        now = time.process_time()
        other_seconds = now - self._started - self._burned
        owed = min(other_seconds * (_CPU_FACTOR - 1) - self._burned, _MAX_BURN_SECONDS)
        while time.process_time() - now < owed:
            pass
        self._burned += max(0.0, time.process_time() - now)


def cpu(patch: Patch) -> None:
    """Use three times the CPU time."""
    burner: list[_Burner] = []

    async def burn(handle: Handle, service: Any, scope: Any, receive: Any, send: Any) -> None:
        if not burner:
            # From the first request on: starting the service is not part of it.
            burner.append(_Burner())
        try:
            await handle(service, scope, receive, send)
        finally:
            burner[0].burn()

    wrap_requests(patch, burn)
