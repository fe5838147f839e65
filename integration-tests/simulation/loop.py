"""A deterministic event loop: a seed determines what runs next, and time jumps to the next timer."""

import asyncio
import heapq
import random
from asyncio import base_events
from collections.abc import Callable, Coroutine
from typing import Any


class SimulatedLoop(base_events.BaseEventLoop):
    """Runs ready callbacks in an order drawn from `rng`; `on_step` is called before each step.

    A real loop runs them in order; here any order is possible, as it is when responses come from other machines.
    """

    def __init__(self, rng: random.Random, on_step: Callable[[], None]) -> None:
        super().__init__()
        self._ready: list[asyncio.Handle] = []  # a list instead of the deque of the base class
        self._now = 0.0
        self._rng = rng
        self._on_step = on_step
        self.steps = 0
        self.owners: dict[asyncio.Task[Any], Any] = {}
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Return the simulated time in seconds; it stands still while something is ready."""
        return self._now

    def owner(self) -> Any:
        """Return the owner of the running task; None for the world itself."""
        task = asyncio.current_task(self)
        return None if task is None else self.owners.get(task)

    def spawn(self, work: Coroutine[Any, Any, Any], owner: Any) -> asyncio.Task[Any]:
        """Start a task for an owner; tasks that it starts have the same owner."""
        task = asyncio.Task(work, loop=self)
        self.owners[task] = owner
        task.add_done_callback(self.owners.pop)
        return task

    @staticmethod
    def _make_task(loop: "SimulatedLoop", work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **options)
        owner = loop.owner()
        if owner is not None:
            loop.owners[task] = owner
            task.add_done_callback(loop.owners.pop)
        return task

    def _run_once(self) -> None:
        """Run one step; the base class calls this repeatedly."""
        ready, timers = self._ready, self._scheduled
        if not ready and timers:
            self._now = max(self._now, timers[0]._when)
        while timers and timers[0]._when <= self._now:
            timer = heapq.heappop(timers)
            timer._scheduled = False
            if not timer._cancelled:
                ready.append(timer)
        if not ready:
            if timers or self._stopping:
                return
            raise RuntimeError("nothing is ready and nothing is planned: everybody waits for ever")
        index = self._rng.randrange(len(ready)) if len(ready) > 1 else 0
        ready[index], ready[-1] = ready[-1], ready[index]
        handle = ready.pop()
        if handle._cancelled:
            return
        self.steps += 1
        self._on_step()
        handle._run()

    def _write_to_self(self) -> None:
        """Do nothing: no other thread wakes this loop."""

    def _process_events(self, event_list: Any) -> None:
        """Do nothing: there are no sockets."""
