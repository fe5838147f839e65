"""Socket proxy between rollout-service and Docker: `python -m app.docker_proxy`.

It forwards only the calls that a rollback needs: inspect, stop and remove the replicas of one project. It never starts
or creates a container, and never stops the last stable replica of a service. It also selects NGINX's configuration, by
name, from those that root has prepared: rollout-service has neither access to NGINX's files nor a way to signal NGINX.
"""

import asyncio
import os
import re
from contextlib import suppress
from typing import Any

import httpx
import orjson

from app.containers import ONE_OFF, PROJECT, SERVICE, TRACK
from app.selection import FOLDER, NAME, UnknownConfiguration, Selection
from app.state_machine import SERVICES
from shared.docker.socket_proxy import (
    ID,
    NotFound,
    Query,
    AllowedCall,
    SocketProxy,
    DisruptionBudget,
    allow_parameters,
    require,
    serve,
    with_labels,
)

_TRACKS = ("stable", "canary", "previous")
_NGINX = "nginx"
_SELECT = re.compile(f"/edge/(?P<name>{NAME})")


class RolloutProxy(SocketProxy):
    """The calls that rollout-service may make."""

    def __init__(self, docker: httpx.AsyncClient, project: str, selection: Selection) -> None:
        super().__init__(docker)
        self._project = project
        self._budget = DisruptionBudget()
        self._selection = selection
        self.rules = [
            AllowedCall("GET", "/version", self.version),
            AllowedCall("GET", "/containers/json", self.list_containers),
            AllowedCall("GET", f"/containers/(?P<id>{ID})/json", self.inspect),
            AllowedCall("GET", "/images/(?P<name>[A-Za-z0-9][A-Za-z0-9._:/@-]{0,400})/json", self.inspect_image),
            AllowedCall("POST", f"/containers/(?P<id>{ID})/stop", self.stop),
            AllowedCall("DELETE", f"/containers/(?P<id>{ID})", self.remove),
        ]

    async def list_containers(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """List containers: the project is added to the filters."""
        require(body is None, "has a body")
        allow_parameters(query, "all", "filters", "limit", "size", "trunc_cmd")
        return with_labels(query, [f"{PROJECT}={self._project}"])

    async def inspect(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Inspect a replica."""
        require(body is None, "has a body")
        await self._replica(match["id"])
        return allow_parameters(query)

    async def inspect_image(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Inspect an image."""
        require(body is None and ".." not in match["name"], "has an unexpected form")
        return allow_parameters(query)

    async def stop(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Stop a replica, except the last stable one of its service, and previous ones while NGINX uses them."""
        require(body is None, "has a body")
        allow_parameters(query)
        await self._allow_removal(match["id"])
        return query

    async def remove(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Remove a stopped replica, except the last stable one of its service."""
        require(body is None, "has a body")
        require(query.get("link", "False") == "False" and query.get("force", "False") == "False", "uses force")
        allow_parameters(query, "v", "link", "force")
        await self._allow_removal(match["id"])
        return query

    async def _allow_removal(self, container: str) -> None:
        """Allow the removal of a replica. Raises Forbidden for the last stable one, and for one that NGINX uses."""
        async with self._budget.lock:
            labels = await self._replica(container)
            if labels[TRACK] == "previous":
                require(not self._selection.is_selected("previous"), "concerns a replica that serves all clients")
            if labels[TRACK] == "stable":
                self._budget.allow_removal(labels[SERVICE], container, await self._running(labels[SERVICE]))

    async def _running(self, service: str) -> list[Any]:
        """Inspect the running stable replicas of a service."""
        documents = []
        for one in await self._list(f"{SERVICE}={service}", f"{TRACK}=stable", f"{ONE_OFF}=False"):
            # Removed since it was listed.
            with suppress(NotFound):
                documents.append(await self.ask(f"/containers/{one['Id']}/json"))
        return documents

    async def _answer(self, method: str, path: str, query: Query, body: Any) -> tuple[int, bytes]:
        """Select an NGINX configuration (not a Docker call), or forward the call."""
        selected = _SELECT.fullmatch(path) if method == "POST" else None
        if selected is None:
            return await super()._answer(method, path, query, body)
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
        running = await self._list(f"{SERVICE}={_NGINX}")
        if not running:
            raise NotFound("nginx is not running; it will start with the selected configuration")
        for one in running:
            answer = await self._docker.post(f"/containers/{one['Id']}/kill", params={"signal": "SIGHUP"})
            if answer.is_error:
                return answer.status_code, answer.content
        return 204, b""

    async def _require_previous(self) -> None:
        """Raise Forbidden unless both services have previous replicas: their pool has no backup."""
        running = await self._list(f"{TRACK}=previous")
        services = {one["Labels"][SERVICE].removesuffix("-previous") for one in running}
        require(services >= set(SERVICES), "selects a version whose replicas are not running")

    async def _list(self, *labels: str) -> Any:
        """Return the running containers of the project with these labels."""
        filters = orjson.dumps({"label": [f"{PROJECT}={self._project}", *labels]}).decode()
        return await self.ask("/containers/json", filters=filters)

    async def _replica(self, container: str) -> Any:
        """Return the labels of a replica of the project. Raises NotFound for any other container."""
        labels = await self._labels(container)
        if labels.get(TRACK) not in _TRACKS:
            raise NotFound("concerns a container outside the project")
        return labels

    async def _labels(self, container: str) -> Any:
        """Return the labels of a container of the project. Raises NotFound for any other container."""
        labels = (await self.ask(f"/containers/{container}/json"))["Config"]["Labels"] or {}
        if labels.get(PROJECT) != self._project:
            raise NotFound("concerns a container outside the project")
        return labels


def main() -> None:
    """Run until SIGTERM. Reads PROJECT."""
    project = os.environ["PROJECT"]
    serve("rollout-proxy", lambda docker: RolloutProxy(docker, project, Selection(FOLDER)))


if __name__ == "__main__":
    main()
