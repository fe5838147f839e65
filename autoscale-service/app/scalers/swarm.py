"""Scales the services of a Swarm stack by changing the number of replicas; Swarm starts and drains tasks.

A service needs DNS round-robin endpoints, so that NGINX sees every task (docs/autoscaling.md).
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from docker.client import DockerClient

from app.scalers import STABLE_LABELS, Replicas, UpdateInProgress, ScalingError, bounds, is_stable
from app.scalers.compose import DockerScaler, connect_docker, docker_errors
from app.settings import AutoscaleSettings

STACK = "com.docker.stack.namespace"


def belongs_to(spec: Mapping[str, Any], stack: str) -> bool:
    """Return whether a specification is that of a scalable stable service of the stack."""
    labels = spec.get("Labels") or {}
    scalable = labels.get(STACK) == stack and is_stable(labels)
    return scalable and "Replicated" in spec.get("Mode", {})


def with_replicas(spec: Mapping[str, Any], replicas: int) -> dict[str, Any]:
    """Return the specification with another number of replicas."""
    return {**spec, "Mode": {"Replicated": {"Replicas": replicas}}}


class SwarmScaler(DockerScaler):
    """The services of one stack; needs a manager's Docker."""

    def __init__(
        self,
        settings: AutoscaleSettings,
        connect: Callable[[str], DockerClient] = connect_docker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(settings, connect)
        self._clock = clock
        # Services that are scaling up: the number of replicas before, and the time of the change.
        self._scaling_up: dict[str, tuple[int, float]] = {}

    def observe(self) -> Mapping[str, Replicas]:
        """Return the scalable services. Swarm counts a task as running once it is healthy."""
        with docker_errors("observe"):
            services = self._services()
        observed: dict[str, Replicas] = {}
        for name, service in services.items():
            spec = service["Spec"]
            current = spec["Mode"]["Replicated"].get("Replicas", 1)
            ready = min(current, service["ServiceStatus"]["RunningTasks"])
            if ready == current:
                self._scaling_up.pop(name, None)
            observed[name] = Replicas(current, ready, *bounds(spec["Labels"]), updating=_is_updating(service))
        return observed

    def scale(self, service: str, replicas: int) -> None:
        """Set the number of replicas."""
        before = self._update(service, replicas)
        if replicas > before:
            self._scaling_up[service] = before, self._clock()

    def remove_failed(self, service: str) -> int:
        """Return to the previous number if new tasks did not become ready in time; return the difference."""
        before, since = self._scaling_up.get(service, (0, self._clock()))
        if self._clock() - since < self._settings.start_timeout_seconds:
            return 0
        removed = self._update(service, before) - before
        # Only after the update succeeded: a failed one is retried.
        del self._scaling_up[service]
        return removed

    def _update(self, service: str, replicas: int) -> int:
        """Set the number of replicas and return what it was."""
        with docker_errors("update"):
            current = self._services().get(service)
            if current is None:
                raise ScalingError("update", f"{service} is not a scalable service")
            if _is_updating(current):
                raise UpdateInProgress(f"{service} is being updated")
            api = self._docker.api
            # Swarm rejects the update if the service has changed since it was read.
            response = api.post(
                f"{api.base_url}/v{api.api_version}/services/{current['ID']}/update",
                params={"version": current["Version"]["Index"]},
                json=with_replicas(current["Spec"], replicas),
            )
            response.raise_for_status()
        before: int = current["Spec"]["Mode"]["Replicated"].get("Replicas", 1)
        return before

    def _services(self) -> dict[str, dict[str, Any]]:
        stack = self._settings.project
        label = [f"{STACK}={stack}", *STABLE_LABELS]
        listed = self._docker.api.services(filters={"label": label}, status=True)
        return {
            service["Spec"]["Name"].removeprefix(f"{stack}_"): service
            for service in listed
            if belongs_to(service["Spec"], stack)
        }


def _is_updating(service: Mapping[str, Any]) -> bool:
    """Return whether an update or rollback of the service is in progress or paused."""
    return (service.get("UpdateStatus") or {}).get("State", "completed") not in ("completed", "rollback_completed")
