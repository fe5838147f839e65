"""Brings the world to what the state says: NGINX's configuration, and which containers are there.

It looks every half second. What it finds otherwise it changes, and what fails it tries again; so it does not matter
where it, or whoever drives, was stopped.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from app import state_machine
from app.containers import Container, Containers, DockerFailed
from app.edge import Edge, EdgeFailed
from app.prometheus import DURATION, FAILURES, LAST_VERDICT, STATE, VERDICTS, WEIGHT
from app.state_file import StateFile
from app.state_machine import Rollout

log = logging.getLogger(__name__)

# How often containers are looked at while nothing goes on.
_LOOK_SECONDS = 15.0
# Workers from before a reload go on serving kept-alive clients (keepalive_min_timeout), and finish their requests. A
# canary may go at once, because they ask stable instead; behind the previous pool there is nobody.
_RELOAD_SECONDS = 10.0

# Judges the step that a rollout is at: returns the verdict, and has stored it with its samples.
Judge = Callable[[Rollout, float], Awaitable[Mapping[str, Any]]]
Tell = Callable[[Rollout, Mapping[str, Any]], Awaitable[None]]


class Controller:
    """One process of it runs; `tick` is called again and again, by one task."""

    def __init__(
        self,
        file: StateFile,
        edge: Edge,
        containers: Containers,
        judge: Judge,
        tell: Tell,
        clock: Callable[[], float],
        judge_seconds: float,
    ) -> None:
        self._file = file
        self._edge = edge
        self._containers = containers
        self._judge = judge
        self._tell = tell
        self._clock = clock
        self._judge_seconds = judge_seconds
        self._judged_at = 0.0
        # As if NGINX had just been reloaded: who knows what the process before this one did last.
        self._free_after = clock() + _RELOAD_SECONDS
        self._cleared: tuple[float, float] = (0.0, 0.0)
        self._told: Rollout | None = None

    async def tick(self) -> Rollout:
        """Look once, and do what is due; return the state."""
        state = self._file.change(lambda state: state_machine.on_time(state, self._clock()))
        state = await self._verdict(state)
        served = await self._serve(state)
        state = self._file.load()
        # Containers go when no configuration that is in force sends anybody to them.
        if served and await self._clear(state):
            state = self._file.change(lambda state: state_machine.settled(state, self._clock()))
        await self._announce(state)
        return state

    async def _verdict(self, state: Rollout) -> Rollout:
        now = self._clock()
        if state.phase != "canary" or not state.shifted_at or now - self._judged_at < self._judge_seconds:
            return state
        self._judged_at = now
        verdict = await self._judge(state, now)
        VERDICTS.labels(verdict["verdict"], verdict["reason"]).inc()
        LAST_VERDICT.labels(verdict["verdict"], verdict["reason"]).set_to_current_time()
        return self._file.change(lambda latest: state_machine.judged(latest, state.step, verdict, self._clock()))

    async def _serve(self, state: Rollout) -> bool:
        """Have NGINX serve by what the state says; tell whether it does."""
        wanted = state_machine.configuration(state)
        try:
            if await self._edge.revision() != wanted:
                if wanted == "previous" and not await self._ready("previous"):
                    return False
                await self._edge.apply(wanted)
                self._free_after = self._clock() + _RELOAD_SECONDS
        except (EdgeFailed, DockerFailed) as error:
            FAILURES.labels("nginx").inc()
            log.warning("NGINX: %s", error)
            return False
        self._file.change(lambda latest: state_machine.shifted(latest, wanted, self._clock()))
        return True

    async def _ready(self, track: str) -> bool:
        found = await asyncio.to_thread(self._containers.observe)
        return {one.service for one in found if one.track == track and one.healthy} >= set(state_machine.SERVICES)

    async def _clear(self, state: Rollout) -> bool:
        """Remove containers that do not belong to the state; tell whether none is left."""
        now = self._clock()
        cleared_state, cleared_at = self._cleared
        rests = not state.under_way and state.changed_at == cleared_state and now - cleared_at < _LOOK_SECONDS
        if rests or (state.under_way and state.phase != "rolling-back"):
            return False
        tracks, images = state_machine.wanted_tracks(state), state_machine.unwanted_images(state, now)
        try:
            found = await asyncio.to_thread(self._containers.observe)
            ids = await asyncio.to_thread(self._containers.image_ids, images) if images else {}
            surplus = superfluous(found, tracks, ids)
            waiting = [one for one in surplus if one.track == "previous"] if now < self._free_after else []
            surplus = [one for one in surplus if one not in waiting]
            if surplus:
                await asyncio.gather(*(asyncio.to_thread(self._containers.remove, [one]) for one in surplus))
                log.info("removed", extra={"containers": [f"{one.service}/{one.track}" for one in surplus]})
        except DockerFailed as error:
            FAILURES.labels("docker").inc()
            log.warning("Docker: %s", error)
            return False
        if not waiting:
            self._cleared = state.changed_at, now
        return not waiting

    async def _announce(self, state: Rollout) -> None:
        """Tell people what is new in the state's history, and show the state in metrics."""
        for phase in state_machine.PHASES:
            STATE.labels(phase).set(phase == state.phase)
        WEIGHT.set(state.weight)
        before, self._told = self._told, state
        if before is None or before.history == state.history:
            return
        known = before.history if before.id == state.id else ()
        for note in state.history:
            if note in known:
                continue
            await self._tell(state, note)
            if note["phase"] == "done" or (note["phase"] == "idle" and state.outcome == "rolled-back"):
                DURATION.labels(state.outcome).observe(note["at"] - state.started_at)


def superfluous(found: Iterable[Container], tracks: frozenset[str], unwanted: Mapping[str, str]) -> list[Container]:
    """Return the containers to be removed: those of other tracks, and stable ones with an unwanted image id.

    As long as a service has no healthy stable replica with another image, its unwanted ones stay.
    """
    found = list(found)
    carried = {
        one.service for one in found if one.track == "stable" and one.healthy and one.image != unwanted.get(one.service)
    }
    return [
        one
        for one in found
        if one.track not in tracks
        or (one.track == "stable" and one.image == unwanted.get(one.service) and one.service in carried)
    ]


async def run(controller: Controller, seconds: float, beat: Callable[[Rollout], None]) -> None:
    """Tick until cancelled; `beat` gets the state each time."""
    while True:
        try:
            beat(await controller.tick())
        except Exception:  # pylint: disable=broad-exception-caught  # the guard must outlive every surprise
            FAILURES.labels("state").inc()
            log.exception("the guard goes on after this")
        await asyncio.sleep(seconds)
