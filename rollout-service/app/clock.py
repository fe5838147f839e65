"""The time of a rollout: the wall clock at its start plus the seconds that have passed since.

Intervals (lease, bake time, timeouts) must not change when somebody sets the wall clock. The kernel's boot time is the
same for all processes of the host, so the service and the commands of a driver agree, also across restarts of the
container. A reboot starts it anew: then the wall clock bridges the gap, within bounds.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from app.state_machine import Rollout

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def _seconds_since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Reads the wall clock and the boot time; both are parameters for tests."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = _seconds_since_boot,
        boot_id: str | None = None,
    ) -> None:
        self.wall = wall
        self.monotonic = monotonic
        self._boot_id = _BOOT_ID.read_text(encoding="ascii").strip() if boot_id is None else boot_id

    def now(self, state: Rollout) -> float:
        """Return the time of this rollout."""
        if state.boot_id == self._boot_id:
            return state.clock_offset + self.monotonic()
        # The wall clock may have been set back meanwhile, but no time before the last change can come again.
        return max(self.wall(), state.changed_at, state.step_started_at)

    def adjust_to_boot(self, state: Rollout, lease_seconds: float) -> Rollout:
        """Continue the rollout's time after a reboot; a lease from before it lasts at most its usual duration."""
        if not state.id or state.boot_id == self._boot_id:
            return state
        now = self.now(state)
        lease_until = min(state.lease_until, now + lease_seconds)
        return replace(state, boot_id=self._boot_id, clock_offset=now - self.monotonic(), lease_until=lease_until)
