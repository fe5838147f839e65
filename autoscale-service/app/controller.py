"""Watches the services, decides, and lets the scaler act; knows no network, and time only by its clock.

What it remembers is only a shorter way to what Docker and Prometheus know: a new process reads it from there.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app import prometheus
from app.measurements import Measured, Measurements
from app.policy import Decision, Entry, History, Rules, Sight, decide, propose
from app.scalers import OPERATIONS, Replicas, Rolling, Scaler, ScalingError
from app.settings import AutoscaleSettings

log = logging.getLogger(__name__)

_STEP = 15.0
_MOST_BACKOFF = 30


@dataclass(slots=True)
class _Pause:
    """The time until the next attempt of something that fails: twice as long after each failure."""

    failures: int = 0
    until: float = 0

    def lengthen(self, now: float, first: float, most: float) -> None:
        """Take note of a failure."""
        self.until = now + min(first * 2**self.failures, most)
        self.failures += 1


@dataclass(slots=True)
class _Service:
    """What is known of a service; `removal` is the pause of taking away what is left of failed replicas."""

    rules: Rules
    seen: Replicas = Replicas(0, 0)
    history: History | None = None
    decision: Decision | None = None
    measured: Measured = field(default_factory=Measured)
    alert_until: float = 0
    pause: _Pause = field(default_factory=_Pause)
    removal: _Pause = field(default_factory=_Pause)
    work: asyncio.Task[None] | None = None
    actions: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=20))

    @property
    def working(self) -> bool:
        return self.work is not None and not self.work.done()

    def unsettled(self, now: float) -> bool:
        """Tell whether something is due soon: an alert fires, replicas start, or a window or pause has to end."""
        decision = self.decision
        waits = decision is not None and decision.pending
        return self.working or self.alert_until > now or waits or self.seen.ready < self.seen.current


class Controller:
    """Keeps every service at the replicas that the policy wants."""

    def __init__(
        self, scaler: Scaler, measurements: Measurements, settings: AutoscaleSettings, clock: Callable[[], float]
    ) -> None:
        self._scaler = scaler
        self._measurements = measurements
        self._settings = settings
        self._clock = clock
        self._services: dict[str, _Service] = {}
        self._away = _Pause()
        self.observed = False

    @property
    def known(self) -> frozenset[str]:
        """The services that may be scaled."""
        return frozenset(self._services)

    def notice(self, service: str, action: str, *, firing: bool) -> None:
        """Take note of an alert; it is only a reason to look, except where no metric can be had."""
        if action == "scale_out":
            self._services[service].alert_until = self._clock() + self._settings.alert_memory if firing else 0

    async def tick(self, *, act: bool) -> bool:
        """Look at every service once and start what is decided; tell whether to look again soon."""
        if self._clock() < self._away.until:
            return True
        try:
            found = await asyncio.to_thread(self._scaler.observe)
        except ScalingError as error:
            self._away.lengthen(self._clock(), self._settings.backoff, self._settings.idle_interval)
            self._failed("all", error)
            return True
        self._away = _Pause()
        # What is being worked on stays known, whether it was seen this time or not.
        busy = {name: service for name, service in self._services.items() if service.working}
        known = {name: self._services.get(name) or self._new(name, seen) for name, seen in found.items()}
        self._services = busy | known
        self.observed = True
        measured = await self._measurements.now()
        for name, seen in found.items():
            service = self._services[name]
            service.seen, service.measured = seen, measured.get(name, Measured())
            service.rules = self._settings.rules(seen.minimum, seen.maximum)
            if not service.working:
                await self._look(name, service, act)
        return any(service.unsettled(self._clock()) for service in self._services.values())

    def _new(self, name: str, seen: Replicas) -> _Service:
        for operation in OPERATIONS:
            # A counter that appears with its first failure has not risen, for Prometheus.
            prometheus.FAILURES.labels(name, operation)
        return _Service(self._settings.rules(seen.minimum, seen.maximum))

    async def settle(self) -> None:
        """Wait for the operations under way."""
        await asyncio.gather(*(service.work for service in self._services.values() if service.work is not None))

    async def _look(self, name: str, service: _Service, act: bool) -> None:
        now = self._clock()
        quiet = act and not service.seen.rolling
        if quiet and now >= max(service.pause.until, service.removal.until) and await self._cleared(name, service):
            return
        if service.history is None:
            service.history = await self._rebuilt(name, service, now)
        seen, measured = service.seen, service.measured
        loads = {metric: measured.load(metric) for metric in self._settings.metrics}
        sight = Sight(
            seen.current,
            seen.ready,
            seen.ready if measured.ready is None else measured.ready,
            loads,
            service.alert_until > now,
            seen.rolling,
        )
        rules = service.rules
        decision = decide(sight, rules, service.history, now)
        service.history = service.history.since(now - max(rules.up_window, rules.down_window, _longest(rules)))
        if decision.proposal is not None:
            service.history = service.history.recommended(now, decision.proposal)
        if decision != service.decision:
            self._tell(name, decision, sight)
        service.decision = decision
        prometheus.REPLICAS.labels(name, "current").set(decision.current)
        # What somebody else has to bring about, or nobody, is not missing; but a replica that stopped and was left is.
        prometheus.REPLICAS.labels(name, "desired").set(decision.desired if act else seen.current + seen.stopped)
        prometheus.DECISIONS.labels(name, decision.direction, decision.reason).inc()
        if seen.ready == seen.current and decision.direction == "none":
            service.pause.failures = 0
        if act and decision.direction != "none" and now >= service.pause.until:
            service.work = asyncio.create_task(self._act(name, service, decision), name=f"scale {name}")

    async def _cleared(self, name: str, service: _Service) -> bool:
        """Take back replicas that did not become ready; tell whether there were any.

        What cannot be removed does not keep the load from getting the replicas that it asks for.
        """
        try:
            removed = await asyncio.to_thread(self._scaler.clear_failed, name)
        except Rolling:
            return False
        except ScalingError as error:
            self._back_off(name, service.removal, error)
            return False
        service.removal = _Pause()
        if removed:
            detail = f"{removed} not ready within {self._settings.start_timeout:g} s, removed"
            self._back_off(name, service.pause, ScalingError("health", detail))
        return removed > 0

    async def _act(self, name: str, service: _Service, decision: Decision) -> None:
        begun = self._clock()
        action = {"at": begun, "from": decision.current, "to": decision.desired, "reason": decision.reason}
        try:
            await asyncio.to_thread(self._scaler.scale, name, decision.desired)
        except Rolling as rolling:
            log.info("left alone", extra={"target": name, "detail": str(rolling)})
            return
        except Exception as found:  # pylint: disable=broad-exception-caught
            # Nobody awaits this task: whatever it is has to be told, and is not to be tried again at once.
            error = found if isinstance(found, ScalingError) else ScalingError("scale", repr(found))
            if error is not found:
                log.exception("nobody expected this", extra={"target": name})
            action["failed"] = str(error)
            changed = error.operation == "remove"
            self._back_off(name, service.removal if changed else service.pause, error)
        else:
            changed = True
            log.info("scaled", extra={"target": name, **action, "seconds": round(self._clock() - begun, 3)})
        if changed and service.history is not None:
            service.history = service.history.changed(self._clock(), decision.desired - decision.current)
        service.actions.append(action)

    def _back_off(self, name: str, pause: _Pause, error: ScalingError) -> None:
        pause.lengthen(self._clock(), self._settings.backoff, self._settings.backoff * _MOST_BACKOFF)
        self._failed(name, error)

    @staticmethod
    def _failed(name: str, error: ScalingError) -> None:
        prometheus.FAILURES.labels(name, error.operation).inc()
        log.error("failed", extra={"target": name, "operation": error.operation, "detail": error.detail})

    @staticmethod
    def _tell(name: str, decision: Decision, sight: Sight) -> None:
        ratios = {metric: load and round(load.value / load.target, 3) for metric, load in sight.loads.items()}
        fields = {"current": decision.current, "desired": decision.desired, "reason": decision.reason}
        counts = {"proposal": decision.proposal, "ready": sight.ready, "measured": sight.measured}
        log.info("decided", extra={"target": name, **fields, **counts, "load": ratios, "alert": sight.alert})

    async def _rebuilt(self, name: str, service: _Service, now: float) -> History:
        """Return what this process would remember, had it run all along.

        Where the series do not reach back through the window, what is there now counts as recommended now, as in
        Kubernetes: nothing goes before a window has passed.
        """
        rules = service.rules
        start = now - max(rules.up_window, rules.down_window, _longest(rules))
        moments = (await self._measurements.past(start, now, _STEP)).get(name, {})
        history = History()
        before: int | None = None
        for when, measured in sorted(moments.items()):
            count = measured.ready or 0
            loads = [measured.load(metric) for metric in self._settings.metrics]
            usable = [load for load in loads if load is not None and load.usable]
            if count and usable:
                wanted = max(propose(load, count, count, count, rules.tolerance) for load in usable)
                history = history.recommended(when, wanted)
            if count and before and count != before:
                history = history.changed(when, count - before)
            before = count or before
        times = [entry.when for entry in history.recommendations]
        if not times or times[0] > start + 2 * _STEP or times[-1] < now - 2 * _STEP:
            history = History((*history.recommendations, Entry(now, service.seen.current)), history.changes)
        return history

    def status(self) -> dict[str, Any]:
        """Return what is known of every service, as plain data for /status."""
        now = self._clock()
        return {name: _told(service, now) for name, service in sorted(self._services.items())}


def _longest(rules: Rules) -> float:
    return max(rules.up.period, rules.down.period, rules.fallback_period)


def _told(service: _Service, now: float) -> dict[str, Any]:
    decision, rules, history = service.decision, service.rules, service.history or History()
    recent = {"up": rules.up_window, "down": rules.down_window}
    return {
        "current": service.seen.current,
        "ready": service.seen.ready,
        "desired": decision.desired if decision else service.seen.current,
        "proposal": decision.proposal if decision else None,
        "why": decision.reason if decision else "not decided yet",
        "minimum": rules.minimum,
        "maximum": rules.maximum,
        "load": _loads(service.measured),
        "alert_for_more": service.alert_until > now,
        "windows": {
            way: [entry.replicas for entry in history.recommendations if entry.when > now - seconds]
            for way, seconds in recent.items()
        },
        "working": service.working,
        "failures": service.pause.failures,
        "next_try_in": max(0.0, round(service.pause.until - now, 1)),
        "last_actions": list(service.actions),
    }


def _loads(measured: Measured) -> Mapping[str, dict[str, float | None]]:
    names = sorted(measured.values.keys() | measured.targets.keys())
    return {name: {"value": measured.values.get(name), "target": measured.targets.get(name)} for name in names}
