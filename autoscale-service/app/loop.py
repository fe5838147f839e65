"""Runs the controller: at once when woken, every few seconds while something is due, now and then otherwise."""

import asyncio
import logging
from contextlib import suppress

from app import prometheus
from app.controller import Controller
from app.settings import AutoscaleSettings
from app.state import StateFolder

log = logging.getLogger(__name__)


class Loop:
    """The controller's heartbeat."""

    def __init__(self, controller: Controller, state: StateFolder, settings: AutoscaleSettings) -> None:
        self._controller = controller
        self._state = state
        self._settings = settings
        self._woken = asyncio.Event()
        self.leading = False

    def wake(self) -> None:
        """Let it look now."""
        self._woken.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            busy = True
            try:
                busy = await self.beat()
            except Exception:  # pylint: disable=broad-exception-caught  # the loop must outlive every surprise
                log.exception("the loop goes on after this")
            seconds = self._settings.active_interval if busy else self._settings.idle_interval
            # Not wait_for: up to Python 3.11 it forgets a cancellation that comes with the wake-up.
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
            self._woken.clear()

    async def beat(self) -> bool:
        """Look once, and act if this process leads and nobody has paused it; tell whether to look again soon."""
        leading = self._state.lead()
        if leading != self.leading:
            log.info("leading" if leading else "another instance leads")
        self.leading = leading
        paused = self._state.paused
        prometheus.LEADER.set(leading)
        prometheus.PAUSED.set(paused is not None)
        return await self._controller.tick(act=leading and paused is None)
