"""The control loop's pass: observe the services, decide, and scale; without network access, and with an injected clock.

State in memory is only a cache: a new process restores it from Docker and Prometheus.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app import prometheus
from app.metrics_client import MetricsClient, ServiceMetrics
from app.policy import Decision, History, Observation, ScalingSpec, decide, propose
from app.scalers import OPERATIONS, Replicas, Scaler, ScalingError, UpdateInProgress
from app.settings import AutoscaleSettings

log = logging.getLogger(__name__)

_RESOLUTION_SECONDS = 15.0
_MAX_BACKOFF_FACTOR = 30


@dataclass(slots=True)
class _Backoff:
    """Exponential backoff of a failing operation."""

    failures: int = 0
    until: float = 0

    def increase(self, now: float, initial: float, maximum: float) -> None:
        """Double the delay after a failure."""
        self.until = now + min(initial * 2**self.failures, maximum)
        self.failures += 1


@dataclass(slots=True)
class _Service:
    """State of a scaled service; `removal_backoff` applies to the removal of failed replicas."""

    spec: ScalingSpec
    replicas: Replicas = Replicas(0, 0)
    history: History | None = None
    decision: Decision | None = None
    metrics: ServiceMetrics = field(default_factory=ServiceMetrics)
    alert_until: float = 0
    backoff: _Backoff = field(default_factory=_Backoff)
    removal_backoff: _Backoff = field(default_factory=_Backoff)
    operation: asyncio.Task[None] | None = None
    actions: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=20))

    @property
    def operation_in_progress(self) -> bool:
        return self.operation is not None and not self.operation.done()

    def is_pending(self, now: float) -> bool:
        """Return whether a change is due soon: an alert fires, replicas start, or a window or backoff is running."""
        pending = self.decision is not None and self.decision.pending
        starting = self.replicas.ready < self.replicas.current
        return self.operation_in_progress or self.alert_until > now or pending or starting


class Controller:
    """Keeps each service at the number of replicas that the policy decides."""

    def __init__(
        self, scaler: Scaler, metrics_client: MetricsClient, settings: AutoscaleSettings, clock: Callable[[], float]
    ) -> None:
        self._scaler = scaler
        self._metrics_client = metrics_client
        self._settings = settings
        self._clock = clock
        self._services: dict[str, _Service] = {}
        self._observe_backoff = _Backoff()
        self.observed = False

    @property
    def services(self) -> frozenset[str]:
        """The services that can be scaled."""
        return frozenset(self._services)

    @property
    def dry_run(self) -> bool:
        """Whether decisions are not carried out."""
        return self._settings.dry_run

    def record_alert(self, service: str, action: str, *, firing: bool) -> None:
        """Record an alert; it triggers a pass, and only without metrics does it add replicas."""
        if action == "scale_out":
            self._services[service].alert_until = (
                self._clock() + self._settings.alert_resolve_timeout_seconds if firing else 0
            )

    async def reconcile(self, *, may_scale: bool) -> bool:
        """Run one pass and start the decided operations, except in a dry run; return whether the next is due soon."""
        may_scale = may_scale and not self._settings.dry_run
        if self._clock() < self._observe_backoff.until:
            return True
        try:
            observed = await asyncio.to_thread(self._scaler.observe)
        except ScalingError as error:
            self._observe_backoff.increase(
                self._clock(), self._settings.backoff_seconds, self._settings.idle_interval_seconds
            )
            self._report_failure("all", error)
            return True
        self._observe_backoff = _Backoff()
        # A service with an operation in progress stays known even if this pass did not find it.
        busy = {name: service for name, service in self._services.items() if service.operation_in_progress}
        present = {name: self._services.get(name) or self._new(name, replicas) for name, replicas in observed.items()}
        self._services = busy | present
        self.observed = True
        metrics = await self._metrics_client.query()
        for name, replicas in observed.items():
            service = self._services[name]
            service.replicas, service.metrics = replicas, metrics.get(name, ServiceMetrics())
            service.spec = self._settings.spec(replicas.minimum, replicas.maximum)
            if not service.operation_in_progress:
                await self._reconcile_service(name, service, may_scale)
        return any(service.is_pending(self._clock()) for service in self._services.values())

    def _new(self, name: str, replicas: Replicas) -> _Service:
        for operation in OPERATIONS:
            # Export 0 from the start: without it, Prometheus sees no increase at the first failure.
            prometheus.FAILURES.labels(name, operation)
        return _Service(self._settings.spec(replicas.minimum, replicas.maximum))

    async def wait_idle(self) -> None:
        """Wait for the operations in progress."""
        await asyncio.gather(
            *(service.operation for service in self._services.values() if service.operation is not None)
        )

    async def _reconcile_service(self, name: str, service: _Service, may_scale: bool) -> None:
        now = self._clock()
        can_remove = may_scale and not service.replicas.updating
        if (
            can_remove
            and now >= max(service.backoff.until, service.removal_backoff.until)
            and await self._remove_failed(name, service)
        ):
            return
        if service.history is None:
            service.history = await self._restore_history(name, service, now)
        replicas, current_metrics = service.replicas, service.metrics
        metrics = {metric: current_metrics.load(metric) for metric in self._settings.metrics}
        observation = Observation(
            replicas.current,
            replicas.ready,
            replicas.ready if current_metrics.ready is None else current_metrics.ready,
            metrics,
            service.alert_until > now,
            replicas.updating,
            current_metrics.panic_loads,
        )
        spec = service.spec
        decision = decide(observation, spec, service.history, now)
        service.history = service.history.since(now - _longest_window(spec))
        if decision.proposal is not None:
            service.history = service.history.with_recommendation(now, decision.proposal)
        if observation.overload(spec) is not None:
            service.history = service.history.with_overload(now)
        if decision != service.decision:
            self._log_decision(name, decision, observation)
        service.decision = decision
        self._export_decision(name, decision, replicas, may_scale)
        if replicas.ready == replicas.current and decision.direction == "none":
            service.backoff.failures = 0
        if may_scale and decision.direction != "none" and now >= service.backoff.until:
            service.operation = asyncio.create_task(self._scale(name, service, decision), name=f"scale {name}")

    async def _remove_failed(self, name: str, service: _Service) -> bool:
        """Remove replicas that did not become ready in time; return whether there were any.

        A failed removal does not block scaling.
        """
        try:
            removed = await asyncio.to_thread(self._scaler.remove_failed, name)
        except UpdateInProgress:
            return False
        except ScalingError as error:
            self._back_off(name, service.removal_backoff, error)
            return False
        service.removal_backoff = _Backoff()
        if removed:
            detail = f"{removed} not ready within {self._settings.start_timeout_seconds:g} s, removed"
            self._back_off(name, service.backoff, ScalingError("health", detail))
        return removed > 0

    async def _scale(self, name: str, service: _Service, decision: Decision) -> None:
        started = self._clock()
        action = {"at": started, "from": decision.current, "to": decision.desired, "reason": decision.reason}
        try:
            await asyncio.to_thread(self._scaler.scale, name, decision.desired)
        except UpdateInProgress as update:
            log.info("scaling skipped: update in progress", extra={"target": name, "detail": str(update)})
            return
        except Exception as caught:  # pylint: disable=broad-exception-caught
            # The task is never awaited, so every error has to be reported and backed off here.
            error = caught if isinstance(caught, ScalingError) else ScalingError("scale", repr(caught))
            if error is not caught:
                log.exception("unexpected error while scaling", extra={"target": name})
            action["failed"] = str(error)
            changed = error.operation == "remove"
            self._back_off(name, service.removal_backoff if changed else service.backoff, error)
        else:
            changed = True
            log.info("scaled", extra={"target": name, **action, "seconds": round(self._clock() - started, 3)})
        if changed and service.history is not None:
            service.history = service.history.with_change(self._clock(), decision.desired - decision.current)
        service.actions.append(action)

    def _back_off(self, name: str, backoff: _Backoff, error: ScalingError) -> None:
        backoff.increase(
            self._clock(), self._settings.backoff_seconds, self._settings.backoff_seconds * _MAX_BACKOFF_FACTOR
        )
        self._report_failure(name, error)

    @staticmethod
    def _report_failure(name: str, error: ScalingError) -> None:
        prometheus.FAILURES.labels(name, error.operation).inc()
        log.error(
            "scaling operation failed", extra={"target": name, "operation": error.operation, "detail": error.detail}
        )

    def _export_decision(self, name: str, decision: Decision, replicas: Replicas, may_scale: bool) -> None:
        prometheus.REPLICAS.labels(name, "current").set(decision.current)
        # If the autoscaler may not scale, the number will not change; a stopped replica still counts as missing.
        desired = decision.desired if may_scale else replicas.current + replicas.stopped
        prometheus.REPLICAS.labels(name, "desired").set(desired)
        # As in Kubernetes' metrics, the label is empty without a dry run, and Prometheus drops it then.
        dry_run = "true" if self._settings.dry_run else ""
        prometheus.DECISIONS.labels(name, decision.direction, decision.reason, dry_run).inc()
        if self._settings.dry_run:
            prometheus.DRY_RUN_REPLICAS.labels(name).set(decision.desired)

    def _log_decision(self, name: str, decision: Decision, observation: Observation) -> None:
        ratios = {metric: load and round(load.value / load.target, 3) for metric, load in observation.metrics.items()}
        fields = {"current": decision.current, "desired": decision.desired, "reason": decision.reason}
        counts = {"proposal": decision.proposal, "ready": observation.ready, "with_metrics": observation.with_metrics}
        state = {"load": ratios, "alert": observation.alert, "dry_run": self._settings.dry_run}
        log.info("scaling decision", extra={"target": name, **fields, **counts, **state})

    async def _restore_history(self, name: str, service: _Service, now: float) -> History:
        """Return the history from Prometheus, as if this process had been running all along.

        If the series do not cover the window, the current number counts as a recommendation, as in Kubernetes: no
        replica is removed before a window has passed.
        """
        spec = service.spec
        start = now - max(_longest_window(spec), spec.panic_duration_seconds)
        by_time = (await self._metrics_client.query_range(start, now, _RESOLUTION_SECONDS)).get(name, {})
        history = History()
        before: int | None = None
        for when, past_metrics in sorted(by_time.items()):
            count = past_metrics.ready or 0
            metrics = [past_metrics.load(metric) for metric in self._settings.metrics]
            usable = [load for load in metrics if load is not None and load.usable]
            if count and usable:
                recommended = max(propose(load, count, count, count, spec.tolerance) for load in usable)
                history = history.with_recommendation(when, recommended)
            if count and before and count != before:
                history = history.with_change(when, count - before)
            if Observation(count, count, count, {}, panic=past_metrics.panic_loads).overload(spec) is not None:
                history = history.with_overload(when)
            before = count or before
        times = [entry.when for entry in history.recommendations]
        if not times or times[0] > start + 2 * _RESOLUTION_SECONDS or times[-1] < now - 2 * _RESOLUTION_SECONDS:
            history = history.with_recommendation(now, service.replicas.current)
        return history

    def status(self) -> dict[str, Any]:
        """Return the status of all services for GET /status."""
        now = self._clock()
        return {name: _status_of(service, now) for name, service in sorted(self._services.items())}


def _longest_window(spec: ScalingSpec) -> float:
    windows = spec.scale_up_stabilization_seconds, spec.scale_down_stabilization_seconds
    return max(*windows, spec.up.period, spec.down.period, spec.fallback_period_seconds)


def _status_of(service: _Service, now: float) -> dict[str, Any]:
    decision, spec, history = service.decision, service.spec, service.history or History()
    recent = {"up": spec.scale_up_stabilization_seconds, "down": spec.scale_down_stabilization_seconds}
    return {
        "current": service.replicas.current,
        "ready": service.replicas.ready,
        "desired": decision.desired if decision else service.replicas.current,
        "proposal": decision.proposal if decision else None,
        "reason": decision.reason if decision else "no decision yet",
        "minimum": spec.minimum,
        "maximum": spec.maximum,
        "load": _metric_values(service.metrics),
        "panic": history.overloaded_at > now - spec.panic_duration_seconds,
        "alert_active": service.alert_until > now,
        "stabilization_windows": {
            direction: [entry.replicas for entry in history.recommendations if entry.when > now - seconds]
            for direction, seconds in recent.items()
        },
        "operation_in_progress": service.operation_in_progress,
        "failures": service.backoff.failures,
        "retry_after_seconds": max(0.0, round(service.backoff.until - now, 1)),
        "last_actions": list(service.actions),
    }


def _metric_values(metrics: ServiceMetrics) -> Mapping[str, dict[str, float | None]]:
    names = sorted(metrics.values.keys() | metrics.targets.keys())
    return {name: {"value": metrics.values.get(name), "target": metrics.targets.get(name)} for name in names}
