"""What a rollout has to do with Docker: see what runs, and remove what must not.

It all goes through a socket proxy (app/docker_proxy.py). Calls block.
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
_TIMEOUT = 40


class DockerFailed(Exception):
    """Docker did not do what it was asked for; the message says what, and why."""


@dataclass(frozen=True, slots=True)
class Container:
    """A replica of any track; `service` is the one that it is a replica of, `image` the image's id."""

    id: str
    service: str
    track: str
    image: str
    running: bool
    healthy: bool


@contextmanager
def _reported(operation: str) -> Iterator[None]:
    try:
        yield
    except (DockerException, requests.RequestException) as error:
        raise DockerFailed(f"{operation}: {str(error)[:300]}") from error


def connected(url: str) -> DockerClient:
    """Return a client that speaks the Engine's own version of the API. Raises DockerException."""
    return DockerClient(base_url=url, version="auto", timeout=_TIMEOUT)


class Containers:
    """The containers of one compose project. Methods raise DockerFailed."""

    def __init__(self, url: str, project: str, connect: Callable[[str], DockerClient] = connected) -> None:
        self._url = url
        self._project = project
        self._connect = connect

    @cached_property
    def _docker(self) -> DockerClient:
        return self._connect(self._url)

    def observe(self) -> list[Container]:
        """Return the replicas of all tracks."""
        found = []
        with _reported("list the containers"):
            filters = {"label": [f"{PROJECT}={self._project}", TRACK]}
            for one in self._docker.api.containers(all=True, filters=filters):
                # Gone since it was listed.
                with suppress(NotFound):
                    found.append(self._inspected(one["Id"]))
        return found

    def _inspected(self, container: str) -> Container:
        document = self._docker.api.inspect_container(container)
        labels, state = document["Config"]["Labels"], document["State"]
        return Container(
            document["Id"],
            labels[SERVICE].removesuffix(f"-{labels[TRACK]}"),
            labels[TRACK],
            document["Image"],
            bool(state["Running"]),
            bool(state["Running"]) and state.get("Health", {}).get("Status") == "healthy",
        )

    def image_ids(self, images: Mapping[str, str]) -> dict[str, str]:
        """Return the ids of images, by service; one that is not here runs nowhere, and is left out."""
        found = {}
        with _reported("look up the images"):
            for service, reference in images.items():
                with suppress(ImageNotFound):
                    found[service] = self._docker.api.inspect_image(reference)["Id"]
        return found

    def remove(self, containers: Iterable[Container]) -> None:
        """Let containers finish what they are doing, for as long as their own grace period, and remove them."""
        for one in containers:
            with _reported(f"remove a {one.track} of {one.service}"), suppress(NotFound):
                self._docker.api.stop(one.id)
                self._docker.api.remove_container(one.id, v=True)
