"""Socket proxy between rollout-service and Docker: `python -m app.docker_proxy`.

It forwards only the calls that a rollback needs: inspect, stop and remove the replicas of one project. It never starts
or creates a container, and never stops the last stable replica of a service. It also selects NGINX's configuration, by
name, from those that root has prepared: rollout-service has neither access to NGINX's files nor a way to signal NGINX.
"""

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from app.containers import ONE_OFF, PROJECT, SERVICE, TRACK
from app.rollout_request import SERVICES
from app.selection import FOLDER, NAME, UnknownConfiguration, Selection
from shared.docker import socket_proxy
from shared.docker.socket_proxy import AllowedCall, NotFound, Query, allow_parameters, require

_TRACKS = ("stable", "canary", "baseline", "previous")
_NGINX = "nginx"
_SELECT = re.compile(f"/edge/(?P<name>{NAME})")


class RolloutProxy(socket_proxy.ReplicaProxy):
    """The calls that rollout-service may make."""

    def __init__(self, docker: httpx.AsyncClient, project: str, selection: Selection) -> None:
        super().__init__(docker, project)
        self._selection = selection
        self.rules = [
            *self.rules,
            AllowedCall("GET", "/images/(?P<name>[A-Za-z0-9][A-Za-z0-9._:/@-]{0,400})/json", self.inspect_image),
        ]

    @property
    def _project_labels(self) -> list[str]:
        return [f"{PROJECT}={self._project}"]

    async def _labels_of(self, container: str) -> Mapping[str, str]:
        """Return the labels of a replica of the project. Raises NotFound for any other container."""
        labels: Mapping[str, str] = (await self.get(f"/containers/{container}/json"))["Config"]["Labels"] or {}
        if labels.get(PROJECT) != self._project or labels.get(TRACK) not in _TRACKS:
            raise NotFound("concerns a container outside the project")
        return labels

    async def inspect_image(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Inspect an image."""
        require(body is None and ".." not in match["name"], "has an unexpected form")
        return allow_parameters(query)

    async def _allow_removal(self, container: str) -> None:
        """Allow the removal of a replica. Raises Forbidden for the last stable one, and for one that NGINX uses."""
        async with self._budget.lock:
            labels = await self._labels_of(container)
            if labels[TRACK] == "previous":
                require(not self._selection.is_selected("previous"), "concerns a replica that serves all clients")
            if labels[TRACK] == "stable":
                service = labels[SERVICE]
                running = await self._inspected([f"{SERVICE}={service}", f"{TRACK}=stable", f"{ONE_OFF}=False"])
                self._budget.allow_removal(service, container, running)

    async def _respond(self, method: str, path: str, query: Query, body: Any) -> tuple[int, bytes]:
        """Select an NGINX configuration (not a Docker call), or forward the call."""
        selected = _SELECT.fullmatch(path) if method == "POST" else None
        if selected is None:
            return await super()._respond(method, path, query, body)
        require(body is None and not query, "has an unexpected form")
        return await self._select(selected["name"])

    async def _select(self, name: str) -> tuple[int, bytes]:
        if name == "previous":
            await self._require_previous()
        try:
            await asyncio.to_thread(self._selection.select, name)
        except UnknownConfiguration as error:
            raise NotFound(str(error)) from error
        except OSError as error:
            return 500, orjson.dumps({"message": f"cannot write the selection of {name}: {error}"})
        running = await self._listed([f"{SERVICE}={_NGINX}"])
        if not running:
            raise NotFound("nginx is not running; it will start with the selected configuration")
        for container in running:
            response = await self._docker.post(f"/containers/{container['Id']}/kill", params={"signal": "SIGHUP"})
            if response.is_error:
                return response.status_code, response.content
        return 204, b""

    async def _require_previous(self) -> None:
        """Raise Forbidden unless both services have previous replicas: their pool has no backup."""
        running = await self._listed([f"{TRACK}=previous"])
        services = {container["Labels"][SERVICE].removesuffix("-previous") for container in running}
        require(services >= set(SERVICES), "selects a version whose replicas are not running")


def main() -> None:
    """Run until SIGTERM. Reads PROJECT."""
    project = os.environ["PROJECT"]
    socket_proxy.serve("rollout-proxy", lambda docker: RolloutProxy(docker, project, Selection(FOLDER)))


if __name__ == "__main__":
    main()
