"""Control loop: reconciles NGINX's configuration and the containers with the rollout state.

Every pass compares the actual with the desired state and retries what failed, so it does not matter when this process
or the driver was interrupted.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from app import state_machine
from app.clock import Clock
from app.containers import Container, Containers, DockerError
from app.nginx import NginxClient, NginxError
from app.prometheus import DURATION, FAILURES, LAST_VERDICT, STATE, VERDICTS, WEIGHT
from app.rollout_request import SERVICES
from app.state_file import StateFile
from app.state_machine import Rollout, Version

log = logging.getLogger(__name__)

# Interval at which containers are listed while no rollout is in progress.
_IDLE_CLEANUP_SECONDS = 15.0
# Workers from before a reload keep serving kept-alive clients (keepalive_min_timeout) and finish their requests. A
# canary may be removed at once, because its requests are retried on stable; the previous pool has no such backup.
_DRAIN_SECONDS = 10.0

# If NGINX cannot be switched for this long in a rollback, canaries are removed although NGINX still routes to them:
# requests to a removed canary are retried on stable.
_SWITCH_TIMEOUT_SECONDS = 5.0
# Timeouts of an analysis and of a write, so that a hanging disk or Prometheus does not block the loop.
_ANALYSIS_TIMEOUT_SECONDS = 30.0
_STORE_TIMEOUT_SECONDS = 1.0

# Analyzes the current step: stores the record and returns the verdict.
Analyze = Callable[[Rollout, float], Awaitable[Mapping[str, Any]]]
Notify = Callable[[Rollout, Mapping[str, Any]], Awaitable[None]]


class Controller:
    """Runs in one process; one task calls `tick` repeatedly."""

    def __init__(
        self,
        file: StateFile,
        nginx: NginxClient,
        containers: Containers,
        analyze: Analyze,
        notify: Notify,
        clock: Clock,
        analysis_interval_seconds: float,
        lease_seconds: float,
    ) -> None:
        self._file = file
        self._nginx = nginx
        self._containers = containers
        self._analyze = analyze
        self._notify = notify
        self._clock = clock
        self._analysis_interval_seconds = analysis_interval_seconds
        self._lease_seconds = lease_seconds
        self._analyzed_at = -analysis_interval_seconds
        # The previous process may have reloaded NGINX just before it ended.
        self._drained_at = clock.monotonic() + _DRAIN_SECONDS
        # Since when NGINX does not serve the desired configuration; 0 while it does.
        self._not_applied_since = 0.0
        self._storing: asyncio.Task[None] | None = None
        self._is_stored = True
        # The state (its time of change) that containers were last cleaned up for, and when.
        self._last_cleanup: tuple[float, float] = (0.0, 0.0)
        self._published: Rollout | None = None

    async def tick(self) -> Rollout:
        """Run one pass and return the state: first the traffic, then the containers, then the disk."""
        self._file.change(lambda state: self._clock.adjust_to_boot(state, self._lease_seconds))
        state = self._change(state_machine.expire)
        state = await self._run_analysis(state)
        applied = await self._apply_configuration(state)
        desired, state = state_machine.nginx_configuration(state), self._file.load()
        # Containers are removed only once no active configuration routes requests to them; a driver may have changed
        # the state meanwhile.
        if applied and state_machine.nginx_configuration(state) == desired and await self._clean_up(state):
            state = self._complete_cleanup(state)
        await self._publish(state)
        await self._store()
        return state

    def _change(self, transition: Callable[[Rollout, float], Rollout]) -> Rollout:
        return self._file.change(lambda state: transition(state, self._clock.now(state)))

    def _complete_cleanup(self, cleaned: Rollout) -> Rollout:
        """End the rollback that the containers have been cleaned up for; one that began since then is left alone."""
        return self._change(
            lambda latest, now: state_machine.complete_cleanup(latest, now) if latest == cleaned else latest
        )

    async def _store(self) -> None:
        """Store the state on the host; a write that hangs goes on in the background."""
        if self._storing is None:
            self._storing = asyncio.create_task(asyncio.to_thread(self._file.store))
        await asyncio.wait({self._storing}, timeout=_STORE_TIMEOUT_SECONDS)
        if not self._storing.done():
            self._is_stored = False
            return
        error, self._storing = self._storing.exception(), None
        self._is_stored = error is None
        if error is not None:
            FAILURES.labels("state").inc()
            log.error("the state is only kept in memory: %s", error)

    async def _run_analysis(self, state: Rollout) -> Rollout:
        monotonic = self._clock.monotonic()
        due = monotonic - self._analyzed_at >= self._analysis_interval_seconds
        if state.phase != "canary" or not state.step_started_at or not due:
            return state
        self._analyzed_at = monotonic
        # Prometheus has the times of the wall clock.
        now = self._clock.now(state)
        drift = self._clock.wall() - now
        try:
            async with asyncio.timeout(_ANALYSIS_TIMEOUT_SECONDS):
                verdict = await self._analyze(state_machine.shift_times(state, drift), now + drift)
        except TimeoutError:
            log.warning("analysis timed out after %.0f s", _ANALYSIS_TIMEOUT_SECONDS)
            return state
        if verdict["verdict"] == "promote" and not self._is_stored:
            # A restart would load an earlier step than the one that NGINX serves.
            verdict = {**verdict, "verdict": "hold"}
        VERDICTS.labels(verdict["verdict"], verdict["reason"]).inc()
        LAST_VERDICT.labels(verdict["verdict"], verdict["reason"]).set_to_current_time()
        return self._change(lambda latest, now: state_machine.apply_verdict(latest, state.step, verdict, now))

    async def _apply_configuration(self, state: Rollout) -> bool:
        """Apply the NGINX configuration of the state; return whether NGINX serves it."""
        desired = state_machine.nginx_configuration(state)
        self._not_applied_since = self._not_applied_since or self._clock.monotonic()
        try:
            if await self._nginx.revision() != desired:
                if desired == "previous" and not await self._is_ready("previous"):
                    return False
                await self._nginx.apply(desired)
                self._drained_at = self._clock.monotonic() + _DRAIN_SECONDS
        except (NginxError, DockerError) as error:
            FAILURES.labels("nginx").inc()
            log.warning("NGINX: %s", error)
            await self._remove_faulty_canaries(state)
            return False
        self._not_applied_since = 0.0
        self._change(lambda latest, now: state_machine.record_traffic(latest, desired, now))
        return True

    async def _remove_faulty_canaries(self, state: Rollout) -> None:
        """Remove the canaries in a rollback if NGINX cannot be switched in time, so that they get no more traffic."""
        late = self._clock.monotonic() - self._not_applied_since >= _SWITCH_TIMEOUT_SECONDS
        if state.phase != "rolling-back" or state.serving != "stable" or not late:
            return
        try:
            replicas = await asyncio.to_thread(self._containers.observe)
            canaries = [replica for replica in replicas if replica.track == "canary"]
            if canaries:
                log.warning("removing the canaries, because NGINX cannot be switched")
                await asyncio.gather(*(asyncio.to_thread(self._containers.remove, [canary]) for canary in canaries))
        except DockerError as error:
            FAILURES.labels("docker").inc()
            log.warning("Docker: %s", error)

    async def _is_ready(self, track: str) -> bool:
        replicas = await asyncio.to_thread(self._containers.observe)
        healthy = {replica.service for replica in replicas if replica.track == track and replica.healthy}
        return healthy >= set(SERVICES)

    async def _clean_up(self, state: Rollout) -> bool:
        """Remove the containers that the state does not expect; return whether none of them remains."""
        now = self._clock.monotonic()
        cleaned_state, cleaned_at = self._last_cleanup
        recent = state.changed_at == cleaned_state and now - cleaned_at < _IDLE_CLEANUP_SECONDS
        if (not state.in_progress and recent) or (state.in_progress and state.phase != "rolling-back"):
            return False
        tracks = state_machine.tracks_to_keep(state)
        unwanted = state_machine.versions_to_remove(state, self._clock.now(state))
        images = {service: version.image for service, version in unwanted.items()}
        try:
            replicas = await asyncio.to_thread(self._containers.observe)
            ids = await asyncio.to_thread(self._containers.image_ids, images) if images else {}
            versions = {service: replace(unwanted[service], image=image) for service, image in ids.items()}
            surplus = containers_to_remove(replicas, tracks, versions)
            draining = [replica for replica in surplus if replica.track == "previous"] if now < self._drained_at else []
            surplus = [replica for replica in surplus if replica not in draining]
            if surplus:
                await asyncio.gather(*(asyncio.to_thread(self._containers.remove, [replica]) for replica in surplus))
                names = [f"{replica.service}/{replica.track}" for replica in surplus]
                log.info("removed containers", extra={"containers": names})
        except DockerError as error:
            FAILURES.labels("docker").inc()
            log.warning("Docker: %s", error)
            return False
        if not draining:
            self._last_cleanup = state.changed_at, now
        return not draining

    async def _publish(self, state: Rollout) -> None:
        """Update the metrics, and notify operators of new events in the state's history."""
        for phase in state_machine.PHASES:
            STATE.labels(phase).set(phase == state.phase)
        WEIGHT.set(state.weight)
        before, self._published = self._published, state
        if before is None or before.history == state.history:
            return
        published = before.history if before.id == state.id else ()
        for event in state.history:
            if event in published:
                continue
            await self._notify(state, event)
            if event["phase"] == "done" or (event["phase"] == "idle" and state.outcome == "rolled-back"):
                DURATION.labels(state.outcome).observe(event["at"] - state.started_at)


def containers_to_remove(
    replicas: Iterable[Container], tracks: frozenset[str], versions: Mapping[str, Version]
) -> list[Container]:
    """Return the containers of other tracks, and the stable ones that run a version to be removed, given by image id.

    A service keeps the latter until it has a healthy stable replica of another version.
    """
    replicas = list(replicas)
    stable = [replica for replica in replicas if replica.track == "stable"]
    unwanted = {
        replica.id
        for replica in stable
        if (version := versions.get(replica.service)) and version.includes(replica.image, replica.revision)
    }
    replaceable = {replica.service for replica in stable if replica.healthy and replica.id not in unwanted}
    removable = {replica.id for replica in stable if replica.id in unwanted and replica.service in replaceable}
    return [replica for replica in replicas if replica.track not in tracks or replica.id in removable]


async def run(controller: Controller, interval_seconds: float, on_pass: Callable[[Rollout], None]) -> None:
    """Run the control loop until cancelled; `on_pass` receives the state after each pass."""
    while True:
        try:
            on_pass(await controller.tick())
        except Exception:  # pylint: disable=broad-exception-caught  # the loop must survive every error
            FAILURES.labels("state").inc()
            log.exception("unexpected error in the control loop")
        await asyncio.sleep(interval_seconds)
