"""Scales the services of a compose project on one host.

New replicas are copies of the newest healthy one, including labels and configuration hash, so that `docker compose`
manages them. NGINX and Prometheus discover them by the service's name in Docker's DNS.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property
from typing import Any

import requests
from docker.client import DockerClient
from docker.errors import DockerException, NotFound

from app.replica import (
    CONFIGURATION,
    CREATED,
    NUMBER,
    ONE_OFF,
    PROJECT,
    SERVICE,
    copy_of,
    endpoints_of,
    belongs_to,
    name_of,
)
from app.scalers import STABLE_LABELS, Replicas, UpdateInProgress, ScalingError, bounds
from app.settings import AutoscaleSettings

_TIMEOUT = 30
_MAX_CONCURRENT_STARTS = 4
# States of replicas that serve no requests and will not start again: stopped manually, or being removed.
_INACTIVE = {"exited", "dead", "removing"}


@contextmanager
def docker_errors(operation: str) -> Iterator[None]:
    """Turn Docker's errors into ScalingError."""
    try:
        yield
    except (DockerException, requests.RequestException) as error:
        raise ScalingError(operation, str(error)[:500]) from error


def connect_docker(url: str) -> DockerClient:
    """Return a client that uses the Engine's API version. Raises DockerException."""
    return DockerClient(base_url=url, version="auto", timeout=_TIMEOUT)


class _Replica:
    """A container, from `GET /containers/{id}/json`."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.id: str = document["Id"]
        self.labels: Mapping[str, str] = document["Config"]["Labels"]
        self.service = self.labels[SERVICE]
        self.number = int(self.labels[NUMBER])
        # Image and configuration.
        self.version = document["Image"], self.labels.get(CONFIGURATION, "")
        self.state: str = document["State"]["Status"]
        self.healthy = document["State"].get("Health", {}).get("Status") == "healthy"
        self.created_by_autoscaler = self.labels.get(CREATED) == "true"
        self.age = time.time() - datetime.fromisoformat(document["Created"][:19] + "+00:00").timestamp()

    @property
    def is_active(self) -> bool:
        """Whether it serves requests, or may still start to."""
        return self.state not in _INACTIVE


class DockerScaler:
    """Base of scalers that use Docker: a client that connects lazily, and again after a failure."""

    def __init__(self, settings: AutoscaleSettings, connect: Callable[[str], DockerClient] = connect_docker) -> None:
        self._settings = settings
        self._connect = connect

    @cached_property
    def _docker(self) -> DockerClient:
        return self._connect(self._settings.docker_url)


class ComposeScaler(DockerScaler):
    """The replicas of one compose project."""

    def __init__(self, settings: AutoscaleSettings, connect: Callable[[str], DockerClient] = connect_docker) -> None:
        super().__init__(settings, connect)
        # Replicas that have been healthy once; they are not removed if they become unhealthy later.
        self._ever_healthy: set[str] = set()

    def observe(self) -> Mapping[str, Replicas]:
        """Return the scalable services."""
        with docker_errors("observe"):
            replicas = self._replicas()
        self._ever_healthy = {replica.id for replica in replicas if replica.healthy or replica.id in self._ever_healthy}
        services: dict[str, list[_Replica]] = {}
        for replica in replicas:
            services.setdefault(replica.service, []).append(replica)
        return {name: _summarize(replicas) for name, replicas in services.items()}

    def scale(self, service: str, replicas: int) -> None:
        """Set the number of replicas: start new ones, or drain and remove the newest."""
        with docker_errors("observe"):
            existing = self._replicas(service)
        active = [replica for replica in existing if replica.is_active]
        if not active:
            raise ScalingError("create", f"{service} has no replica to copy")
        if _is_updating(active):
            raise UpdateInProgress(f"{service} has replicas of two versions")
        if replicas > len(active):
            self._start(active, max(replica.number for replica in existing), replicas - len(active))
        newest_first = sorted(active, key=lambda replica: (replica.healthy, replica.age, -replica.number))
        removal_error: ScalingError | None = None
        for replica in newest_first[: max(0, len(active) - replicas)]:
            try:
                self._drain(replica.id)
            except ScalingError as error:
                if error.operation != "remove":
                    raise
                removal_error = error
        if removal_error is not None:
            raise removal_error

    def remove_failed(self, service: str) -> int:
        """Remove replicas that the autoscaler started and that did not become ready in time; return their number."""
        with docker_errors("observe"):
            failed = [replica for replica in self._replicas(service) if self._has_failed(replica)]
        for replica in failed:
            self._drain(replica.id)
        return len(failed)

    def _has_failed(self, replica: _Replica) -> bool:
        if not replica.created_by_autoscaler or replica.age < self._settings.start_timeout_seconds:
            return False
        if replica.state == "created" or not replica.is_active:
            return True
        # Whether a replica older than this process was ever healthy is unknown; assume it was.
        is_recent = replica.age < 3 * self._settings.start_timeout_seconds
        return is_recent and not replica.healthy and replica.id not in self._ever_healthy

    def _replicas(self, service: str | None = None) -> list[_Replica]:
        """Return the scalable replicas, including stopped ones."""
        project = self._settings.project
        label = [f"{PROJECT}={project}", *STABLE_LABELS, f"{ONE_OFF}=False"]
        if service is not None:
            label.append(f"{SERVICE}={service}")
        existing = []
        for container in self._docker.api.containers(all=True, filters={"label": label}):
            # Removed since it was listed.
            with suppress(NotFound):
                existing.append(_Replica(self._docker.api.inspect_container(container["Id"])))
        return [replica for replica in existing if belongs_to(replica.labels, project)]

    def _start(self, active: list[_Replica], last: int, count: int) -> None:
        model = min(active, key=lambda replica: (not replica.healthy, replica.age)).document
        with ThreadPoolExecutor(_MAX_CONCURRENT_STARTS) as pool:
            starts = [pool.submit(self._start_one, model, number) for number in range(last + 1, last + 1 + count)]
        for start in starts:
            start.result()

    def _start_one(self, model: Mapping[str, Any], number: int) -> None:
        """Start one replica; remove it again if that fails."""
        body = copy_of(model, number)
        with docker_errors("create"):
            container_id = self._docker.api.create_container_from_config(body, name_of(body["Labels"]))["Id"]
        try:
            with docker_errors("start"):
                for network, endpoint in list(endpoints_of(model, number).items())[1:]:
                    self._docker.api.connect_container_to_network(container_id, network, aliases=endpoint["Aliases"])
                self._docker.api.start(container_id)
        except ScalingError:
            # If this fails, too, remove_failed tries again.
            with suppress(ScalingError):
                self._drain(container_id)
            raise

    def _drain(self, container: str) -> None:
        """Stop a replica gracefully, within its own grace period, and remove it."""
        with docker_errors("stop"), suppress(NotFound):
            self._docker.api.stop(container)
        with docker_errors("remove"), suppress(NotFound):
            self._docker.api.remove_container(container, v=True)


def _summarize(replicas: list[_Replica]) -> Replicas:
    active = [replica for replica in replicas if replica.is_active]
    newest = min(replicas, key=lambda replica: replica.age)
    ready, stopped = sum(replica.healthy for replica in active), sum(replica.state == "exited" for replica in replicas)
    return Replicas(len(active), ready, *bounds(newest.labels), stopped, _is_updating(active))


def _is_updating(active: list[_Replica]) -> bool:
    # A container that never started is not a new version; remove_failed removes it.
    return len({replica.version for replica in active if replica.state != "created"}) > 1
