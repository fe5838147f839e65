"""Rollouts in every phase, and an in-memory stack of NGINX, Docker and analysis, for tests."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from app import state_machine
from app.clock import Clock
from app.containers import Container
from app.controller import Controller
from app.state_file import StateFile
from app.rollout_request import SERVICES, RolloutRequest
from app.state_machine import Rollout

NOW = 1_000_000.0
LEASE = 30.0
OLD = {service: f"registry/{service}@sha256:{'a' * 64}" for service in SERVICES}
NEW = {service: f"registry/{service}@sha256:{'b' * 64}" for service in SERVICES}
# Revisions of the configuration before and after a change of settings.
BEFORE, AFTER = (dict.fromkeys(SERVICES, digit * 64) for digit in "12")
# A request to roll out new settings of the running images.
SETTINGS = {"images": OLD, "revisions": AFTER, "previous_revisions": BEFORE}


def request(**changes: Any) -> RolloutRequest:
    """Return a driver's request, with some fields changed."""
    fields = {"driver": "ansible", "version": "v2", "images": NEW, "previous": OLD, "bake_seconds": 10}
    return RolloutRequest.model_validate(
        {**fields, "step_timeout_seconds": 100, "scale_down_delay_seconds": 1800, **changes}
    )


def started(**changes: Any) -> Rollout:
    return state_machine.start(Rollout(), request(**changes), "one", NOW, LEASE)


def at_step(step: int = 0, **changes: Any) -> Rollout:
    """Return a rollout at a step that receives traffic."""
    state = state_machine.complete_provisioning(started(**changes), "one", NOW)
    for number in range(step + 1):
        state = state_machine.record_traffic(state, state_machine.nginx_configuration(state), NOW)
        if number < step:
            state = state_machine.apply_verdict(state, number, verdict("promote"), NOW)
    return state


def promoting(**changes: Any) -> Rollout:
    return state_machine.apply_verdict(at_step(1, **changes), 1, verdict("promote"), NOW)


def done(**changes: Any) -> Rollout:
    return state_machine.complete_promotion(promoting(**changes), "one", NOW)


def images_to_remove(state: Rollout, now: float) -> dict[str, str]:
    """Return the images of the versions that stable replicas must no longer run."""
    return {service: one.image for service, one in state_machine.versions_to_remove(state, now).items()}


def verdict(decision: str, reason: str = "healthy") -> dict[str, Any]:
    figures = {"canary_errors": 1.0, "canary_requests": 120.0, "stable_errors": 0.0, "stable_requests": 900.0}
    service = {**figures, "slower_seconds": 0.01}
    return {
        "verdict": decision,
        "reason": reason,
        "figures": {"account-service": service, "invariants": {"ledger-imbalance": 0.0}},
    }


class FakeStack:
    """NGINX, Docker and the analysis, in memory; `log` has the operations in order."""

    def __init__(self, folder: Path, state: Rollout, memory: Path | None = None) -> None:
        self.file = StateFile(folder, memory or folder / "memory")
        self.file.change(lambda _state: state)
        self.now = NOW
        # What somebody has set the wall clock wrong by.
        self.clock_error = 0.0
        self.served: str | None = "stable"
        self.nginx_error: Exception | None = None
        self.containers = [stable(service, number) for service in SERVICES for number in (1, 2)]
        self.verdict: Mapping[str, Any] = verdict("hold", "not-enough-samples")
        self.log: list[str] = []
        self.notifications: list[str] = []
        self.controller = self.process()

    def process(self) -> Controller:
        """Return a newly started controller."""
        doubles: Any = (self, self, self.analyze, self.notify)
        clock = Clock(lambda: self.now + self.clock_error, lambda: self.now - NOW, "this boot")
        return Controller(self.file, *doubles, clock, 2, LEASE)

    async def revision(self) -> str | None:
        return self.served

    async def apply(self, name: str) -> None:
        if self.nginx_error is not None:
            raise self.nginx_error
        self.served = name
        self.log.append(f"serve {name}")

    def observe(self) -> list[Container]:
        return list(self.containers)

    def image_ids(self, images: Mapping[str, str]) -> dict[str, str]:
        return {service: image[-1] for service, image in images.items()}

    def remove(self, containers: Iterable[Container]) -> None:
        for container in containers:
            self.containers.remove(container)
            self.log.append(f"remove {container.id}")

    async def analyze(self, _state: Rollout, _now: float) -> Mapping[str, Any]:
        return self.verdict

    async def notify(self, _state: Rollout, event: Mapping[str, Any]) -> None:
        self.notifications.append(f"{event['phase']}: {event['reason']}")

    async def ticks(self, count: int = 4, seconds: float = 2) -> Rollout:
        """Run some passes with time between them, and return the state."""
        for _ in range(count):
            state = await self.controller.tick()
            self.now += seconds
        return state


def stable(service: str, number: int, image: str = "a", healthy: bool = True, revision: str = "") -> Container:
    return Container(f"{service}-{number}{image}{revision}", service, "stable", image, True, healthy, revision)


def others(track: str, image: str, healthy: bool = True) -> list[Container]:
    return [Container(f"{service}-{track}", service, track, image, True, healthy) for service in SERVICES]
