"""The replicas of the compose project: list them, and stop and remove some.

Calls go through the socket proxy (app/docker_proxy.py), and block.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property

import requests
from docker.client import DockerClient
from docker.errors import DockerException, ImageNotFound, NotFound

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
ONE_OFF = "com.docker.compose.oneoff"
TRACK = "banking.track"
CONFIGURATION = "banking.configuration"
_TIMEOUT = 40


class DockerError(Exception):
    """A Docker operation failed; the message names the operation and the cause."""


@dataclass(frozen=True, slots=True)
class Container:
    """A replica of a service on any track; `image` is the image's id, `revision` that of its configuration.

    Replicas of earlier releases have no revision.
    """

    id: str
    service: str
    track: str
    image: str
    running: bool
    healthy: bool
    revision: str = ""


@contextmanager
def _docker_errors(operation: str) -> Iterator[None]:
    try:
        yield
    except (DockerException, requests.RequestException) as error:
        raise DockerError(f"{operation}: {str(error)[:300]}") from error


def connect_docker(url: str) -> DockerClient:
    """Return a client that uses the Engine's API version. Raises DockerException."""
    return DockerClient(base_url=url, version="auto", timeout=_TIMEOUT)


class Containers:
    """The containers of one compose project. Methods raise DockerError."""

    def __init__(self, url: str, project: str, connect: Callable[[str], DockerClient] = connect_docker) -> None:
        self._url = url
        self._project = project
        self._connect = connect

    @cached_property
    def _docker(self) -> DockerClient:
        return self._connect(self._url)

    def observe(self) -> list[Container]:
        """Return the replicas of all tracks."""
        replicas = []
        with _docker_errors("list the containers"):
            filters = {"label": [f"{PROJECT}={self._project}", TRACK]}
            for listed in self._docker.api.containers(all=True, filters=filters):
                # Removed since it was listed.
                with suppress(NotFound):
                    replicas.append(self._inspect(listed["Id"]))
        return replicas

    def _inspect(self, container: str) -> Container:
        document = self._docker.api.inspect_container(container)
        labels, state = document["Config"]["Labels"], document["State"]
        return Container(
            document["Id"],
            labels[SERVICE].removesuffix(f"-{labels[TRACK]}"),
            labels[TRACK],
            document["Image"],
            bool(state["Running"]),
            bool(state["Running"]) and state.get("Health", {}).get("Status") == "healthy",
            labels.get(CONFIGURATION, ""),
        )

    def image_ids(self, images: Mapping[str, str]) -> dict[str, str]:
        """Return the ids of images, by service, without those that are not on this host: no replica runs them."""
        ids = {}
        with _docker_errors("look up the images"):
            for service, reference in images.items():
                with suppress(ImageNotFound):
                    ids[service] = self._docker.api.inspect_image(reference)["Id"]
        return ids

    def remove(self, containers: Iterable[Container]) -> None:
        """Stop containers gracefully, each within its own grace period, and remove them."""
        for container in containers:
            with _docker_errors(f"remove a {container.track} replica of {container.service}"), suppress(NotFound):
                self._docker.api.stop(container.id)
                self._docker.api.remove_container(container.id, v=True)
