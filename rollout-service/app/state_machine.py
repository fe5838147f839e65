"""A rollout as a state machine: plain functions on plain data, the clock given.

    idle → provisioning → canary (step by step) → promoting → done → idle
    and from every one of them → rolling-back → idle

Each function returns the next state, or the same one where there is nothing to change, or raises Refused. So whatever
is asked twice happens once, and whoever takes over goes on where the state says.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

Phase = Literal["idle", "provisioning", "canary", "promoting", "done", "rolling-back"]
PHASES: tuple[Phase, ...] = ("idle", "provisioning", "canary", "promoting", "done", "rolling-back")
SERVICES = ("account-service", "transaction-service")
# In these somebody has to be in charge.
_DRIVEN = ("provisioning", "canary", "promoting")
_MOST_HISTORY = 100


class Refused(Exception):
    """What was asked for is not possible now; the message says why."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The state. Times are seconds since 1970, 0 for never; `weight` is the percentage of clients that NGINX is known
    to send to the canary; images are references by digest, by service."""

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
    def under_way(self) -> bool:
        """Tell whether another rollout has to wait for this one."""
        return self.phase not in ("idle", "done")


Change = Callable[[Rollout], Rollout]
_ADAPTER = TypeAdapter(Rollout)


def from_json(text: str | bytes) -> Rollout:
    """Return the state that was written. Raises ValueError for anything else."""
    return _ADAPTER.validate_json(text)


def to_dict(state: Rollout) -> dict[str, Any]:
    """Return the state as it is written."""
    return asdict(state)


class Request(BaseModel):
    """What whoever drives asks for: the next version of both services, and how it is to be tried."""

    model_config = ConfigDict(extra="forbid")

    driver: str = Field(min_length=1, description="Who drives, for people.")
    version: str = Field(min_length=1)
    images: dict[str, str] = Field(description="By service, of both.")
    previous: dict[str, str] = Field(description="What runs now; by service, of both.")
    canaries: dict[str, int] = Field(dict.fromkeys(SERVICES, 1), description="Replicas, by service, of both.")
    steps: list[int] = Field([10, 50], min_length=1, description="Percentages of clients, growing.")
    bake_seconds: float = Field(60, ge=0, description="A step takes at least so long.")
    budget_seconds: float = Field(600, gt=0, description="Longest time of provisioning, and of a step.")
    warm_seconds: float = Field(1800, ge=0, description="The version before is kept for so long.")
    synthetic: bool = Field(False, description="Make requests of one's own where customers make too few.")

    @field_validator("images", "previous", "canaries")
    @classmethod
    def _of_both(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.keys() != set(SERVICES):
            raise ValueError(f"name both services: {', '.join(SERVICES)}")
        return value


def begin(state: Rollout, request: Request, rollout_id: str, now: float, lease: float) -> Rollout:
    """idle or done → provisioning. Raises Refused."""
    if state.under_way:
        raise Refused(f"rollout {state.id} of {state.version} is under way ({state.phase}); wait, or roll it back")
    if any(not 0 < step < 100 for step in request.steps) or sorted(set(request.steps)) != request.steps:
        # Without clients on stable there is nothing to compare a canary with.
        raise Refused(f"steps {request.steps}: percentages have to grow, from 1 to at most 99")
    if request.budget_seconds <= request.bake_seconds:
        raise Refused("the budget of a step has to be longer than its bake time")
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
    return _to(fresh, "provisioning", now, f"{request.driver} begins")


def renew(state: Rollout, rollout_id: str, now: float, lease: float) -> Rollout:
    """Whoever drives is there. Raises Refused when the rollout is not theirs to drive any more."""
    _must_drive(state, rollout_id)
    return replace(state, lease_until=now + lease)


def provisioned(state: Rollout, rollout_id: str, now: float) -> Rollout:
    """provisioning → canary, at its first step. Raises Refused."""
    _must_drive(state, rollout_id)
    if state.phase != "provisioning":
        return state
    return _to(replace(state, step=0, shifted_at=0), "canary", now, "the canaries are ready")


def shifted(state: Rollout, configuration_: str, now: float) -> Rollout:
    """NGINX serves a configuration (see `configuration`)."""
    if configuration_ != configuration(state):
        return state
    weight = state.steps[state.step] if state.phase in ("canary", "promoting") else 0
    state = replace(state, weight=weight)
    if state.phase == "canary" and not state.shifted_at:
        return _noted(replace(state, shifted_at=now), now, f"{weight} % of clients")
    return state


def judged(state: Rollout, step: int, verdict: Mapping[str, Any], now: float) -> Rollout:
    """A verdict about a step: on to the next one, on to promoting, back, or wait; waiting has an end."""
    if state.phase != "canary" or state.step != step or not state.shifted_at:
        return state
    state = replace(state, verdict=dict(verdict))
    reason = str(verdict["reason"])
    match verdict["verdict"]:
        case "rollback":
            return roll_back(state, reason, now)
        case "promote" if step + 1 < len(state.steps):
            return _to(replace(state, step=step + 1, shifted_at=0), "canary", now, reason)
        case "promote":
            return _to(state, "promoting", now, reason)
        case _ if now - state.shifted_at > state.budget_seconds:
            return roll_back(state, f"no verdict within {state.budget_seconds:.0f} s ({reason})", now)
    return state


def promoted(state: Rollout, rollout_id: str, now: float) -> Rollout:
    """promoting → done: from here on the new version is the stable one. Raises Refused."""
    _must_drive(state, rollout_id)
    if state.phase == "done":
        return state
    if state.phase != "promoting":
        raise Refused(f"the rollout is {state.phase}, not promoting")
    return _to(replace(state, outcome="promoted"), "done", now, "stable runs the new version")


def abort(state: Rollout, reason: str, now: float) -> Rollout:
    """From every state back. Raises Refused where there is nothing to go back from."""
    if state.phase == "idle":
        raise Refused("no rollout is under way, and no earlier version is kept warm; deploy the version you want")
    return state if state.phase == "rolling-back" else roll_back(state, reason, now)


def roll_back(state: Rollout, reason: str, now: float) -> Rollout:
    """→ rolling-back. What is done already goes back to the version before, which is still there."""
    serving: Literal["stable", "previous"] = "previous" if state.phase == "done" else "stable"
    return _to(replace(state, serving=serving, outcome="rolled-back"), "rolling-back", now, reason)


def restored(state: Rollout, now: float) -> Rollout:
    """Stable runs the version before again, so NGINX may go back to it. Raises Refused."""
    if state.phase != "rolling-back":
        raise Refused(f"the rollout is {state.phase}, not rolling back")
    if state.serving == "stable":
        return state
    return _noted(replace(state, serving="stable", images=state.previous), now, "stable runs the version before")


def on_time(state: Rollout, now: float) -> Rollout:
    """What time alone brings: nobody is in charge any more, provisioning takes too long, or what was warm may go."""
    if state.phase in _DRIVEN and now > state.lease_until:
        return roll_back(state, f"{state.driver} has not been heard of for too long", now)
    if state.phase == "provisioning" and now - state.changed_at > state.budget_seconds:
        return roll_back(state, f"the canaries were not ready within {state.budget_seconds:.0f} s", now)
    if state.phase == "done" and now - state.changed_at > state.warm_seconds:
        return _to(state, "idle", now, "the version before is not kept any longer")
    return state


def settled(state: Rollout, now: float) -> Rollout:
    """rolling-back → idle, when nothing of the rollout is left."""
    if state.phase != "rolling-back" or state.serving != "stable":
        return state
    return _to(state, "idle", now, state.reason)


def configuration(state: Rollout) -> str:
    """Return the name of the configuration that NGINX should have."""
    if state.phase in ("canary", "promoting"):
        return f"canary-{state.steps[state.step]}"
    return state.serving


def wanted_tracks(state: Rollout) -> frozenset[str]:
    """Return the tracks whose containers belong to this state."""
    if state.phase in _DRIVEN:
        return frozenset({"stable", "canary"})
    if state.phase == "done" or state.serving == "previous":
        return frozenset({"stable", "previous"})
    return frozenset({"stable"})


def unwanted_images(state: Rollout, now: float) -> Mapping[str, str]:
    """Return the images, by service, of which no stable replica shall be left.

    Of a rollout that is taken back that is the new one; of one that is done, and nobody drives any more, the old one.
    """
    if state.phase == "rolling-back" and state.serving == "stable" and state.images != state.previous:
        return state.images
    if state.phase == "done" and now > state.lease_until:
        return state.previous
    return {}


def _must_drive(state: Rollout, rollout_id: str) -> None:
    if state.id != rollout_id or state.phase not in (*_DRIVEN, "done"):
        ended = (
            f"{state.phase}: {state.reason}" if state.id == rollout_id else f"{state.id or 'none'} is the current one"
        )
        raise Refused(f"rollout {rollout_id} is not under way any more ({ended})")


def _to(state: Rollout, phase: Phase, now: float, reason: str) -> Rollout:
    return _noted(replace(state, phase=phase, changed_at=now, reason=reason), now, reason)


def _noted(state: Rollout, now: float, reason: str) -> Rollout:
    note = {"at": now, "phase": state.phase, "step": state.step, "weight": state.weight, "reason": reason}
    return replace(state, history=(*state.history, note)[-_MOST_HISTORY:])
