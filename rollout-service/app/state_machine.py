"""The state machine of a rollout: plain functions on plain data; the caller passes the time.

    idle → provisioning → canary (step by step) → promoting → done → idle
    and from every one of them → rolling-back → idle

Each function returns the next state, or the same state when there is nothing to change, or raises InvalidTransition.
All are idempotent, so a driver that was interrupted repeats its last command.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, TypeAdapter

from app.rollout_request import RolloutRequest

Phase = Literal["idle", "provisioning", "canary", "promoting", "done", "rolling-back"]
PHASES: tuple[Phase, ...] = ("idle", "provisioning", "canary", "promoting", "done", "rolling-back")
# Phases in which the driver has to renew its lease.
_LEASED_PHASES = ("provisioning", "canary", "promoting")
# Stands for the id of the current rollout in commands that operators run manually.
CURRENT = "current"
_MAX_HISTORY = 100
# A rollback takes seconds; after this time operators are notified that it is not complete.
_OVERDUE_SECONDS = 300
# An analysis decides when a step times out; without any analysis the step ends this much later.
_ANALYSIS_GRACE_SECONDS = 30


class InvalidTransition(Exception):
    """The current state does not allow the transition; the message gives the reason."""


def _formerly(name: str, old: str) -> Any:
    """Return the metadata of a field whose name is another one in states that earlier releases have stored."""
    return Field(validation_alias=AliasChoices(name, old))


@dataclass(frozen=True, slots=True)
class Version:
    """An image, and the revisions of the configuration that count as this version."""

    image: str
    revisions: frozenset[str]

    def includes(self, image: str, revision: str) -> bool:
        """Return whether a replica with this image and revision runs the version; "" among them stands for any."""
        return image == self.image and (revision in self.revisions or self.revisions == {""})


@dataclass(frozen=True, slots=True)
class Rollout:
    """The state. Times are Unix timestamps, 0 for never; images are references by digest, by service.

    A version of a service is its image and the revision of its configuration (scripts/stack/revisions.py); drivers that
    only roll out images give no revisions.
    `weight` is the percentage of clients that NGINX is confirmed to send to the canary; `skip_analysis` is the reason
    for a rollout without a canary, empty otherwise. `boot_id` and `clock_offset` belong to app/clock.py.
    """

    id: str = ""
    phase: Phase = "idle"
    version: str = ""
    driver: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    previous: Mapping[str, str] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    previous_revisions: Mapping[str, str] = field(default_factory=dict)
    canaries: Mapping[str, int] = field(default_factory=dict)
    steps: tuple[int, ...] = ()
    step: int = 0
    weight: int = 0
    bake_seconds: float = 0
    step_timeout_seconds: Annotated[float, _formerly("step_timeout_seconds", "budget_seconds")] = 0
    scale_down_delay_seconds: Annotated[float, _formerly("scale_down_delay_seconds", "warm_seconds")] = 0
    synthetic: bool = False
    gates: tuple[int, ...] = ()
    gate_timeout_seconds: float = 0
    skip_analysis: str = ""
    serving: Literal["stable", "previous"] = "stable"
    lease_until: float = 0
    started_at: float = 0
    changed_at: float = 0
    step_started_at: Annotated[float, _formerly("step_started_at", "shifted_at")] = 0
    waiting_since: float = 0
    approved_at: float = 0
    overdue: bool = False
    boot_id: str = ""
    clock_offset: float = 0
    reason: str = ""
    verdict: Mapping[str, Any] = field(default_factory=dict)
    outcome: Literal["", "promoted", "rolled-back"] = ""
    history: tuple[Mapping[str, Any], ...] = ()

    @property
    def in_progress(self) -> bool:
        """Whether the rollout has not finished: another one cannot start yet."""
        return self.phase not in ("idle", "done")


Transition = Callable[[Rollout], Rollout]
_ADAPTER = TypeAdapter(Rollout)


def from_json(text: str | bytes) -> Rollout:
    """Parse a stored state. Raises ValueError if it is invalid."""
    return _ADAPTER.validate_json(text)


def to_dict(state: Rollout) -> dict[str, Any]:
    """Return the state in its stored form."""
    return asdict(state)


def start(state: Rollout, request: RolloutRequest, rollout_id: str, now: float, lease: float) -> Rollout:
    """idle or done → provisioning. Raises InvalidTransition."""
    if state.in_progress:
        raise InvalidTransition(
            f"rollout {state.id} of {state.version} is in progress ({state.phase}); wait for it, or roll it back"
        )
    if request.observed is not None and request.observed != state.id:
        raise InvalidTransition(
            f"rollout {state.id} of {state.version} by {state.driver} has run since this deployment started;"
            " check which version is deployed, and deploy again"
        )
    _check_request(request)
    fresh = Rollout(
        id=rollout_id,
        version=request.version,
        driver=request.driver,
        images=request.images,
        previous=request.previous,
        revisions=request.revisions,
        previous_revisions=request.previous_revisions,
        canaries=request.canaries,
        steps=tuple(request.steps),
        bake_seconds=request.bake_seconds,
        step_timeout_seconds=request.step_timeout_seconds,
        scale_down_delay_seconds=request.scale_down_delay_seconds,
        synthetic=request.synthetic,
        gates=tuple(request.gates),
        gate_timeout_seconds=request.gate_timeout_seconds,
        skip_analysis=request.skip_analysis.strip(),
        started_at=now,
        lease_until=now + lease,
    )
    return _enter(fresh, "provisioning", now, f"started by {request.driver}")


def _check_request(request: RolloutRequest) -> None:
    if any(not 0 < step < 100 for step in request.steps) or sorted(set(request.steps)) != request.steps:
        # Stable needs clients, too: the canary is compared with it.
        raise InvalidTransition(f"steps {request.steps}: weights must increase, from at least 1 to at most 99")
    if unknown := set(request.gates) - set(request.steps):
        raise InvalidTransition(f"gates {sorted(unknown)} are not among the steps {request.steps}")
    if request.gates and request.skip_analysis.strip():
        raise InvalidTransition("gates need a canary: remove them, or do not skip the analysis")
    if request.step_timeout_seconds <= request.bake_seconds:
        raise InvalidTransition("step_timeout_seconds must be greater than bake_seconds")


def renew(state: Rollout, rollout_id: str, now: float, lease: float) -> Rollout:
    """Renew the driver's lease. Raises InvalidTransition unless the rollout is the current one and still driven."""
    _require_active(state, rollout_id)
    return replace(state, lease_until=now + lease)


def complete_provisioning(state: Rollout, rollout_id: str, now: float) -> Rollout:
    """provisioning → canary, at the first step; → promoting without analysis. Raises InvalidTransition."""
    _require_active(state, rollout_id)
    if state.phase != "provisioning":
        return state
    if state.skip_analysis:
        return _enter(state, "promoting", now, f"WITHOUT ANALYSIS: {state.skip_analysis}", urgent=True)
    return _enter_step(state, 0, now, "canaries ready")


def record_traffic(state: Rollout, configuration: str, now: float) -> Rollout:
    """Record that NGINX serves a configuration; the first time in a step starts the step's clock."""
    if configuration != nginx_configuration(state):
        return state
    weight = 0 if configuration in ("stable", "previous") else state.steps[state.step]
    state = replace(state, weight=weight)
    if state.phase == "canary" and not state.step_started_at:
        return _with_event(replace(state, step_started_at=now), now, f"{weight} % of clients")
    return state


def apply_verdict(state: Rollout, step: int, verdict: Mapping[str, Any], now: float) -> Rollout:
    """Act on a verdict on a step: next step, promotion, approval, rollback, or hold until the step times out."""
    if state.phase != "canary" or state.step != step or not state.step_started_at:
        return state
    state = replace(state, verdict=dict(verdict))
    reason = ": ".join(str(part) for part in (verdict["reason"], verdict.get("detail")) if part)
    match verdict["verdict"]:
        case "rollback":
            return roll_back(state, reason, now)
        case "promote":
            return _leave_step(state, reason, now)
        case _ if not state.waiting_since and now - _step_timeout_start(state) > state.step_timeout_seconds:
            return roll_back(state, f"no verdict within {state.step_timeout_seconds:.0f} s ({reason})", now)
    return state


def _leave_step(state: Rollout, reason: str, now: float) -> Rollout:
    weight = state.steps[state.step]
    if weight in state.gates and not state.approved_at:
        if state.waiting_since:
            return state
        text = f"waiting for approval at {weight} %"
        return _with_event(replace(state, waiting_since=now), now, text, urgent=True)
    if state.step + 1 < len(state.steps):
        return _enter_step(state, state.step + 1, now, reason)
    return _enter(state, "promoting", now, reason)


def approve(state: Rollout, rollout_id: str, weight: int, person: str, now: float) -> Rollout:
    """Open the gate at a weight; the next verdict may leave the step. Raises InvalidTransition."""
    _require_active(state, rollout_id)
    here = state.phase == "canary" and state.steps[state.step] == weight
    if here and state.approved_at:
        return state
    if not here or not state.waiting_since:
        at = f"{state.phase} at {state.weight} %"
        raise InvalidTransition(
            f"rollout {state.id} is not waiting for approval at {weight} % ({at}); check its status"
        )
    return _with_event(replace(state, waiting_since=0, approved_at=now), now, f"approved at {weight} % by {person}")


def complete_promotion(state: Rollout, rollout_id: str, now: float) -> Rollout:
    """promoting → done: the new version is stable. Raises InvalidTransition."""
    _require_active(state, rollout_id)
    if state.phase == "done":
        return state
    if state.phase != "promoting":
        raise InvalidTransition(f"the rollout is {state.phase}, not promoting")
    return _enter(replace(state, outcome="promoted"), "done", now, "promotion complete: stable runs the new version")


def abort(state: Rollout, rollout_id: str, reason: str, now: float) -> Rollout:
    """Roll back from any phase but idle. Raises InvalidTransition."""
    _require_current(state, rollout_id)
    if state.phase == "idle":
        raise InvalidTransition(
            "no rollout is in progress, and no previous version is running; deploy the version you want"
        )
    return state if state.phase == "rolling-back" else roll_back(state, reason, now)


def roll_back(state: Rollout, reason: str, now: float) -> Rollout:
    """→ rolling-back. After promotion NGINX switches to the previous version, which is still running."""
    serving: Literal["stable", "previous"] = "previous" if state.phase == "done" else "stable"
    state = replace(state, serving=serving, outcome="rolled-back", waiting_since=0)
    return _enter(state, "rolling-back", now, reason)


def check_restoring(state: Rollout, rollout_id: str) -> Rollout:
    """Return the state if stable has to be restored to the previous version. Raises InvalidTransition."""
    _require_current(state, rollout_id)
    if state.phase != "rolling-back" or state.serving != "previous":
        raise InvalidTransition(f"rollout {state.id} does not restore the previous version ({state.phase})")
    return state


def complete_restore(state: Rollout, rollout_id: str, now: float) -> Rollout:
    """Record that stable runs the previous version again, so NGINX may use it. Raises InvalidTransition."""
    _require_current(state, rollout_id)
    if state.phase != "rolling-back":
        raise InvalidTransition(f"the rollout is {state.phase}, not rolling back")
    if state.serving == "stable":
        return state
    return _with_event(replace(state, serving="stable"), now, "rollback complete: stable runs the previous version")


def expire(state: Rollout, now: float) -> Rollout:
    """Apply timeouts: lease, provisioning, a step, an approval, the scale-down delay, and a slow rollback."""
    # The driver may still drain replicas of the previous version.
    if state.phase == "done" and now - state.changed_at > state.scale_down_delay_seconds and now > state.lease_until:
        return _enter(state, "idle", now, "previous version removed: scale-down delay elapsed")
    if state.phase == "rolling-back" and not state.overdue and now - state.changed_at > _OVERDUE_SECONDS:
        text = f"ROLLBACK NOT COMPLETE after {_OVERDUE_SECONDS // 60} minutes ({state.reason}); run make rollback"
        return _with_event(replace(state, overdue=True), now, text, urgent=True)
    if reason := _timeout(state, now):
        return roll_back(state, reason, now)
    return state


def _timeout(state: Rollout, now: float) -> str:
    """Return the reason why a driven phase has taken too long; empty if it has not."""
    timeout = state.step_timeout_seconds
    if state.phase in _LEASED_PHASES and now > state.lease_until:
        return f"lease expired: no renewal from {state.driver}"
    if state.phase == "provisioning" and now - state.changed_at > timeout:
        return f"the canaries were not ready within {timeout:.0f} s"
    if state.phase != "canary":
        return ""
    if state.waiting_since:
        expired = now - state.waiting_since > state.gate_timeout_seconds
        return f"not approved within {state.gate_timeout_seconds:.0f} s" if expired else ""
    if not state.step_started_at:
        return f"NGINX did not apply the step within {timeout:.0f} s" if now - state.changed_at > timeout else ""
    late = now - _step_timeout_start(state) > timeout + _ANALYSIS_GRACE_SECONDS
    return f"no analysis within {timeout:.0f} s" if late else ""


def _step_timeout_start(state: Rollout) -> float:
    return max(state.step_started_at, state.approved_at)


def shift_times(state: Rollout, seconds: float) -> Rollout:
    """Return the state with its start and that of the step moved, to the time of another clock."""
    return replace(state, started_at=state.started_at + seconds, step_started_at=state.step_started_at + seconds)


def complete_cleanup(state: Rollout, now: float) -> Rollout:
    """rolling-back → idle, once no container of the rollout remains."""
    if state.phase != "rolling-back" or state.serving != "stable":
        return state
    return _enter(state, "idle", now, state.reason)


def nginx_configuration(state: Rollout) -> str:
    """Return the name of the configuration that NGINX must serve."""
    if state.phase in ("canary", "promoting") and not state.skip_analysis:
        return f"canary-{state.steps[state.step]}"
    return state.serving


def tracks_to_keep(state: Rollout) -> frozenset[str]:
    """Return the tracks whose containers are expected in this state."""
    if state.phase in _LEASED_PHASES:
        return frozenset({"stable", "canary", "baseline"})
    if state.phase == "done" or state.serving == "previous":
        return frozenset({"stable", "previous"})
    return frozenset({"stable"})


def versions_to_remove(state: Rollout, now: float) -> Mapping[str, Version]:
    """Return the versions, by service, that stable replicas must no longer run.

    After a rollback these are the new ones; after promotion, once the lease has expired, the previous ones. They stay
    unwanted when the rollout has ended: a command of its driver that was under way may still start a replica.
    """
    withdrawn = state.outcome == "rolled-back" and state.serving == "stable"
    promoted = state.outcome == "promoted" and now > state.lease_until
    if not withdrawn and not promoted:
        return {}
    versions = {}
    for service, image in (state.images if withdrawn else state.previous).items():
        new, previous = state.revisions.get(service, ""), state.previous_revisions.get(service, "")
        if (state.images[service], new) != (state.previous[service], previous):
            # Replicas without a revision are those of an earlier release.
            versions[service] = Version(image, frozenset({new} if withdrawn else {previous, ""}))
    return versions


def _require_current(state: Rollout, rollout_id: str) -> None:
    """Raise InvalidTransition for the id of another rollout than the current one."""
    if rollout_id in (CURRENT, state.id):
        return
    current = f"{state.id} of {state.version} by {state.driver}, {state.phase}" if state.id else "none"
    raise InvalidTransition(
        f"Rollout {rollout_id} is not the current one ({current}): nothing was changed;"
        " to act on the current rollout, run make rollback, or deploy again"
    )


def _require_active(state: Rollout, rollout_id: str) -> None:
    """Raise InvalidTransition unless the rollout is the current one and its driver may continue."""
    _require_current(state, rollout_id)
    if state.phase not in (*_LEASED_PHASES, "done"):
        raise InvalidTransition(f"rollout {rollout_id} is no longer in progress ({state.phase}: {state.reason})")


def _enter_step(state: Rollout, step: int, now: float, reason: str) -> Rollout:
    fresh = replace(state, step=step, step_started_at=0, waiting_since=0, approved_at=0)
    return _enter(fresh, "canary", now, reason)


def _enter(state: Rollout, phase: Phase, now: float, reason: str, *, urgent: bool = False) -> Rollout:
    return _with_event(replace(state, phase=phase, changed_at=now, reason=reason), now, reason, urgent=urgent)


def _with_event(state: Rollout, now: float, reason: str, *, urgent: bool = False) -> Rollout:
    """Add an event to the history; an urgent one needs a person."""
    event = {"at": now, "phase": state.phase, "step": state.step, "weight": state.weight, "reason": reason}
    if urgent:
        event["urgent"] = True
    return replace(state, history=(*state.history, event)[-_MAX_HISTORY:])
