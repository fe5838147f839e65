"""The state machine of a rollout: plain functions on plain data; the caller passes the time.

    idle → provisioning → canary (step by step) → promoting → done → idle
    and from every one of them → rolling-back → idle

Each function returns the next state, or the same state when there is nothing to change, or raises InvalidTransition.
All are idempotent, so a driver that was interrupted repeats its last command.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

Phase = Literal["idle", "provisioning", "canary", "promoting", "done", "rolling-back"]
PHASES: tuple[Phase, ...] = ("idle", "provisioning", "canary", "promoting", "done", "rolling-back")
SERVICES = ("account-service", "transaction-service")
# Phases in which the driver has to renew its lease.
_DRIVEN = ("provisioning", "canary", "promoting")
_MAX_HISTORY = 100


class InvalidTransition(Exception):
    """The current state does not allow the transition; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The state. Times are Unix timestamps, 0 for never; images are references by digest, by service.

    `weight` is the percentage of clients that NGINX is confirmed to send to the canary.
    """

    id: str = ""
    phase: Phase = "idle"
    version: str = ""
    driver: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    previous: Mapping[str, str] = field(default_factory=dict)
    canaries: Mapping[str, int] = field(default_factory=dict)
    steps: tuple[int, ...] = ()
    step: int = 0
    weight: int = 0
    bake_seconds: float = 0
    budget_seconds: float = 0
    warm_seconds: float = 0
    synthetic: bool = False
    serving: Literal["stable", "previous"] = "stable"
    lease_until: float = 0
    started_at: float = 0
    changed_at: float = 0
    shifted_at: float = 0
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


class RolloutRequest(BaseModel):
    """A request for a rollout: the new version of both services, and the canary steps."""

    model_config = ConfigDict(extra="forbid")

    driver: str = Field(min_length=1, description="Name of the driver, shown to operators.")
    version: str = Field(min_length=1)
    images: dict[str, str] = Field(description="New image of each service.")
    previous: dict[str, str] = Field(description="Current image of each service.")
    canaries: dict[str, int] = Field(dict.fromkeys(SERVICES, 1), description="Canary replicas of each service.")
    steps: list[int] = Field([10, 50], min_length=1, description="Canary weights in percent, in increasing order.")
    bake_seconds: float = Field(60, ge=0, description="Minimum duration of a step.")
    budget_seconds: float = Field(600, gt=0, description="Maximum duration of provisioning, and of each step.")
    warm_seconds: float = Field(1800, ge=0, description="How long the previous version keeps running after promotion.")
    synthetic: bool = Field(False, description="Send synthetic requests to both tracks.")

    @field_validator("images", "previous", "canaries")
    @classmethod
    def _require_both_services(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.keys() != set(SERVICES):
            raise ValueError(f"must have a value for each service: {', '.join(SERVICES)}")
        return value


def start(state: Rollout, request: RolloutRequest, rollout_id: str, now: float, lease: float) -> Rollout:
    """idle or done → provisioning. Raises InvalidTransition."""
    if state.in_progress:
        raise InvalidTransition(
            f"rollout {state.id} of {state.version} is in progress ({state.phase}); wait for it, or roll it back"
        )
    if any(not 0 < step < 100 for step in request.steps) or sorted(set(request.steps)) != request.steps:
        # Stable needs clients, too: the canary is compared with it.
        raise InvalidTransition(f"steps {request.steps}: weights must increase, from at least 1 to at most 99")
    if request.budget_seconds <= request.bake_seconds:
        raise InvalidTransition("budget_seconds must be greater than bake_seconds")
    fresh = Rollout(
        id=rollout_id,
        version=request.version,
        driver=request.driver,
        images=request.images,
        previous=request.previous,
        canaries=request.canaries,
        steps=tuple(request.steps),
        bake_seconds=request.bake_seconds,
        budget_seconds=request.budget_seconds,
        warm_seconds=request.warm_seconds,
        synthetic=request.synthetic,
        started_at=now,
        lease_until=now + lease,
    )
    return _enter(fresh, "provisioning", now, f"started by {request.driver}")


def renew(state: Rollout, rollout_id: str, now: float, lease: float) -> Rollout:
    """Renew the driver's lease. Raises InvalidTransition unless the rollout is the current one and still driven."""
    _require_current(state, rollout_id)
    return replace(state, lease_until=now + lease)


def complete_provisioning(state: Rollout, rollout_id: str, now: float) -> Rollout:
    """provisioning → canary, at the first step. Raises InvalidTransition."""
    _require_current(state, rollout_id)
    if state.phase != "provisioning":
        return state
    return _enter(replace(state, step=0, shifted_at=0), "canary", now, "canaries ready")


def record_traffic(state: Rollout, configuration: str, now: float) -> Rollout:
    """Record that NGINX serves a configuration; the first time in a step starts the step's clock."""
    if configuration != nginx_configuration(state):
        return state
    weight = state.steps[state.step] if state.phase in ("canary", "promoting") else 0
    state = replace(state, weight=weight)
    if state.phase == "canary" and not state.shifted_at:
        return _with_event(replace(state, shifted_at=now), now, f"{weight} % of clients")
    return state


def apply_verdict(state: Rollout, step: int, verdict: Mapping[str, Any], now: float) -> Rollout:
    """Act on a verdict on a step: next step, promote, roll back, or hold until the step times out."""
    if state.phase != "canary" or state.step != step or not state.shifted_at:
        return state
    state = replace(state, verdict=dict(verdict))
    reason = ": ".join(str(part) for part in (verdict["reason"], verdict.get("detail")) if part)
    match verdict["verdict"]:
        case "rollback":
            return roll_back(state, reason, now)
        case "promote" if step + 1 < len(state.steps):
            return _enter(replace(state, step=step + 1, shifted_at=0), "canary", now, reason)
        case "promote":
            return _enter(state, "promoting", now, reason)
        case _ if now - state.shifted_at > state.budget_seconds:
            return roll_back(state, f"no verdict within {state.budget_seconds:.0f} s ({reason})", now)
    return state


def complete_promotion(state: Rollout, rollout_id: str, now: float) -> Rollout:
    """promoting → done: the new version is stable. Raises InvalidTransition."""
    _require_current(state, rollout_id)
    if state.phase == "done":
        return state
    if state.phase != "promoting":
        raise InvalidTransition(f"the rollout is {state.phase}, not promoting")
    return _enter(replace(state, outcome="promoted"), "done", now, "promotion complete: stable runs the new version")


def abort(state: Rollout, reason: str, now: float) -> Rollout:
    """Roll back from any phase but idle. Raises InvalidTransition."""
    if state.phase == "idle":
        raise InvalidTransition(
            "no rollout is in progress, and no previous version is running; deploy the version you want"
        )
    return state if state.phase == "rolling-back" else roll_back(state, reason, now)


def roll_back(state: Rollout, reason: str, now: float) -> Rollout:
    """→ rolling-back. After promotion NGINX switches to the previous version, which is still running."""
    serving: Literal["stable", "previous"] = "previous" if state.phase == "done" else "stable"
    return _enter(replace(state, serving=serving, outcome="rolled-back"), "rolling-back", now, reason)


def complete_restore(state: Rollout, now: float) -> Rollout:
    """Record that stable runs the previous version again, so NGINX may use it. Raises InvalidTransition."""
    if state.phase != "rolling-back":
        raise InvalidTransition(f"the rollout is {state.phase}, not rolling back")
    if state.serving == "stable":
        return state
    return _with_event(
        replace(state, serving="stable", images=state.previous),
        now,
        "rollback complete: stable runs the previous version",
    )


def expire(state: Rollout, now: float) -> Rollout:
    """Apply timeouts: an expired lease, provisioning that takes too long, the end of the scale-down delay."""
    if state.phase in _DRIVEN and now > state.lease_until:
        return roll_back(state, f"lease expired: no renewal from {state.driver}", now)
    if state.phase == "provisioning" and now - state.changed_at > state.budget_seconds:
        return roll_back(state, f"the canaries were not ready within {state.budget_seconds:.0f} s", now)
    if state.phase == "done" and now - state.changed_at > state.warm_seconds:
        return _enter(state, "idle", now, "previous version removed: scale-down delay elapsed")
    return state


def complete_cleanup(state: Rollout, now: float) -> Rollout:
    """rolling-back → idle, once no container of the rollout remains."""
    if state.phase != "rolling-back" or state.serving != "stable":
        return state
    return _enter(state, "idle", now, state.reason)


def nginx_configuration(state: Rollout) -> str:
    """Return the name of the configuration that NGINX must serve."""
    if state.phase in ("canary", "promoting"):
        return f"canary-{state.steps[state.step]}"
    return state.serving


def tracks_to_keep(state: Rollout) -> frozenset[str]:
    """Return the tracks whose containers are expected in this state."""
    if state.phase in _DRIVEN:
        return frozenset({"stable", "canary"})
    if state.phase == "done" or state.serving == "previous":
        return frozenset({"stable", "previous"})
    return frozenset({"stable"})


def images_to_remove(state: Rollout, now: float) -> Mapping[str, str]:
    """Return the images, by service, that stable replicas must no longer run.

    During a rollback these are the new ones; after promotion, once the lease has expired, the previous ones.
    """
    if state.phase == "rolling-back" and state.serving == "stable" and state.images != state.previous:
        return state.images
    if state.phase == "done" and now > state.lease_until:
        return state.previous
    return {}


def _require_current(state: Rollout, rollout_id: str) -> None:
    if state.id != rollout_id or state.phase not in (*_DRIVEN, "done"):
        ended = f"{state.phase}: {state.reason}" if state.id == rollout_id else f"{state.id or 'none'} is current"
        raise InvalidTransition(f"rollout {rollout_id} is no longer in progress ({ended})")


def _enter(state: Rollout, phase: Phase, now: float, reason: str) -> Rollout:
    return _with_event(replace(state, phase=phase, changed_at=now, reason=reason), now, reason)


def _with_event(state: Rollout, now: float, reason: str) -> Rollout:
    event = {"at": now, "phase": state.phase, "step": state.step, "weight": state.weight, "reason": reason}
    return replace(state, history=(*state.history, event)[-_MAX_HISTORY:])
