"""Scales the services of a Swarm stack: the number of replicas is all that changes; Swarm starts and drains tasks.

A service has to have DNS round-robin endpoints where NGINX shall see every task (docs/autoscaling.md).
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from docker.client import DockerClient

from app.scalers import STABLE_LABELS, Replicas, Rolling, ScalingError, bounds, is_stable
from app.scalers.compose import DockerScaler, connected, reported
from app.settings import AutoscaleSettings

STACK = "com.docker.stack.namespace"


def is_ours(spec: Mapping[str, Any], stack: str) -> bool:
    """Tell whether a service's specification is that of a stable service that may be scaled."""
    labels = spec.get("Labels") or {}
    right = labels.get(STACK) == stack and is_stable(labels)
    return right and "Replicated" in spec.get("Mode", {})


def with_replicas(spec: Mapping[str, Any], replicas: int) -> dict[str, Any]:
    """Return the specification with another number of replicas and nothing else changed."""
    return {**spec, "Mode": {"Replicated": {"Replicas": replicas}}}


class SwarmScaler(DockerScaler):
    """The services of one stack; needs a manager's Docker."""

    def __init__(
        self,
        settings: AutoscaleSettings,
        connect: Callable[[str], DockerClient] = connected,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(settings, connect)
        self._clock = clock
        # Services that grew and are not complete yet: how many they were, and when they grew.
        self._growing: dict[str, tuple[int, float]] = {}

    def observe(self) -> Mapping[str, Replicas]:
        """Return the services that may be scaled, and no others. Swarm counts a task as running once it is healthy."""
        with reported("observe"):
            services = self._services()
        found: dict[str, Replicas] = {}
        for name, service in services.items():
            spec = service["Spec"]
            current = spec["Mode"]["Replicated"].get("Replicas", 1)
            ready = min(current, service["ServiceStatus"]["RunningTasks"])
            if ready == current:
                self._growing.pop(name, None)
            found[name] = Replicas(current, ready, *bounds(spec["Labels"]), rolling=_rolling(service))
        return found

    def scale(self, service: str, replicas: int) -> None:
        """Bring a service to so many replicas."""
        before = self._update(service, replicas)
        if replicas > before:
            self._growing[service] = before, self._clock()

    def clear_failed(self, service: str) -> int:
        """Go back to the former number where new tasks did not become ready in time; return by how many."""
        before, since = self._growing.get(service, (0, self._clock()))
        if self._clock() - since < self._settings.start_timeout:
            return 0
        removed = self._update(service, before) - before
        # Not before it is done: what was refused is tried again.
        del self._growing[service]
        return removed

    def _update(self, service: str, replicas: int) -> int:
        """Set the number of replicas and return what it was."""
        with reported("update"):
            found = self._services().get(service)
            if found is None:
                raise ScalingError("update", f"{service} is no service that may be scaled")
            if _rolling(found):
                raise Rolling(f"{service} is being updated")
            api = self._docker.api
            # Swarm refuses the update if anybody changed the service since it was read.
            answer = api.post(
                f"{api.base_url}/v{api.api_version}/services/{found['ID']}/update",
                params={"version": found["Version"]["Index"]},
                json=with_replicas(found["Spec"], replicas),
            )
            answer.raise_for_status()
        was: int = found["Spec"]["Mode"]["Replicated"].get("Replicas", 1)
        return was

    def _services(self) -> dict[str, dict[str, Any]]:
        stack = self._settings.project
        label = [f"{STACK}={stack}", *STABLE_LABELS]
        found = self._docker.api.services(filters={"label": label}, status=True)
        return {
            service["Spec"]["Name"].removeprefix(f"{stack}_"): service
            for service in found
            if is_ours(service["Spec"], stack)
        }


def _rolling(service: Mapping[str, Any]) -> bool:
    """Tell whether an update of the service, or its way back, is under way or has stopped half-way."""
    return (service.get("UpdateStatus") or {}).get("State", "completed") not in ("completed", "rollback_completed")
