"""What rollout-service's tests are written with: a rollout, and a world of NGINX, containers and verdicts."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from app import state_machine
from app.containers import Container
from app.controller import Controller
from app.state_file import StateFile
from app.state_machine import SERVICES, Request, Rollout

NOW = 1_000_000.0
LEASE = 30.0
OLD = {service: f"registry/{service}@sha256:{'a' * 64}" for service in SERVICES}
NEW = {service: f"registry/{service}@sha256:{'b' * 64}" for service in SERVICES}


def request(**changes: Any) -> Request:
    """Return what a driver asks for, with some of it changed."""
    asked = {"driver": "ansible", "version": "v2", "images": NEW, "previous": OLD, "bake_seconds": 10}
    return Request.model_validate({**asked, "budget_seconds": 100, "warm_seconds": 1800, **changes})


def begun(**changes: Any) -> Rollout:
    return state_machine.begin(Rollout(), request(**changes), "one", NOW, LEASE)


def at_step(step: int = 0, **changes: Any) -> Rollout:
    """Return a rollout whose step is served."""
    state = state_machine.provisioned(begun(**changes), "one", NOW)
    for number in range(step + 1):
        state = state_machine.shifted(state, state_machine.configuration(state), NOW)
        if number < step:
            state = state_machine.judged(state, number, verdict("promote"), NOW)
    return state


def promoting() -> Rollout:
    return state_machine.judged(at_step(1), 1, verdict("promote"), NOW)


def done() -> Rollout:
    return state_machine.promoted(promoting(), "one", NOW)


def verdict(answer: str, reason: str = "healthy") -> dict[str, Any]:
    figures = {"canary_errors": 1.0, "canary_requests": 120.0, "stable_errors": 0.0, "stable_requests": 900.0}
    service = {**figures, "slower_seconds": 0.01}
    return {
        "verdict": answer,
        "reason": reason,
        "figures": {"account-service": service, "invariants": {"ledger-imbalance": 0.0}},
    }


class World:
    """NGINX, Docker and a judge, in memory. It keeps what was done, in order."""

    def __init__(self, folder: Path, state: Rollout) -> None:
        self.file = StateFile(folder)
        self.file.change(lambda _state: state)
        self.now = NOW
        self.served: str | None = "stable"
        self.refuses: Exception | None = None
        self.containers = [stable(service, number) for service in SERVICES for number in (1, 2)]
        self.verdict: Mapping[str, Any] = verdict("hold", "not-enough-samples")
        self.log: list[str] = []
        self.told: list[str] = []
        self.controller = self.process()

    def process(self) -> Controller:
        """Return a controller as it is after a start."""
        return Controller(self.file, self, self, self.judge, self.tell, lambda: self.now, 2)  # type: ignore[arg-type]

    async def revision(self) -> str | None:
        return self.served

    async def apply(self, name: str) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.served = name
        self.log.append(f"serve {name}")

    def observe(self) -> list[Container]:
        return list(self.containers)

    def image_ids(self, images: Mapping[str, str]) -> dict[str, str]:
        return {service: image[-1] for service, image in images.items()}

    def remove(self, containers: Iterable[Container]) -> None:
        for one in containers:
            self.containers.remove(one)
            self.log.append(f"remove {one.id}")

    async def judge(self, _state: Rollout, _now: float) -> Mapping[str, Any]:
        return self.verdict

    async def tell(self, _state: Rollout, note: Mapping[str, Any]) -> None:
        self.told.append(f"{note['phase']}: {note['reason']}")

    async def ticks(self, count: int = 4, seconds: float = 2) -> Rollout:
        """Let time pass, and return the state after it."""
        for _ in range(count):
            state = await self.controller.tick()
            self.now += seconds
        return state


def stable(service: str, number: int, image: str = "a", healthy: bool = True) -> Container:
    return Container(f"{service}-{number}{image}", service, "stable", image, True, healthy)


def others(track: str, image: str, healthy: bool = True) -> list[Container]:
    return [Container(f"{service}-{track}", service, track, image, True, healthy) for service in SERVICES]
