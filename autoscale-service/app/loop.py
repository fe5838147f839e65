"""The control loop: runs a pass when woken, every few seconds while a change is due, and rarely otherwise."""

import asyncio
import logging
from contextlib import suppress

from app import prometheus
from app.controller import Controller
from app.settings import AutoscaleSettings
from app.state import StateFolder

log = logging.getLogger(__name__)


class Loop:
    """Runs the controller until cancelled."""

    def __init__(self, controller: Controller, state: StateFolder, settings: AutoscaleSettings) -> None:
        self._controller = controller
        self._state = state
        self._settings = settings
        self._woken = asyncio.Event()
        self.leader = False

    def wake(self) -> None:
        """Start a pass now."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            busy = True
            try:
                busy = await self.run_once()
            except Exception:  # pylint: disable=broad-exception-caught  # the loop must survive every error
                log.exception("unexpected error in the control loop")
            seconds = self._settings.active_interval_seconds if busy else self._settings.idle_interval_seconds
            # Not wait_for: up to Python 3.11 it loses a cancellation that coincides with the wake-up.
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
            self._woken.clear()

    async def run_once(self) -> bool:
        """Run one pass, which scales only on the leader and unless paused; return whether the next one is due soon."""
        leader = self._state.try_acquire_leadership()
        if leader != self.leader:
            log.info("acquired leadership" if leader else "lost leadership: another instance is the leader")
        self.leader = leader
        paused = self._state.paused
        prometheus.LEADER.set(leader)
        prometheus.PAUSED.set(paused is not None)
        return await self._controller.reconcile(may_scale=leader and paused is None)
