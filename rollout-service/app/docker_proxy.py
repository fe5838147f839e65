"""Holds Docker's socket for rollout-service: `python -m app.docker_proxy`.

It passes on what taking a rollout back needs: look at the replicas of one project, stop and remove them. It starts and
creates nothing, and the last stable replica of a service stays. It also selects NGINX's configuration, by name, from
those that root has prepared: rollout-service has neither NGINX's files nor a way to signal NGINX.
"""

import asyncio
import os
import re
from contextlib import suppress
from typing import Any

import httpx
import orjson

from app.containers import ONE_OFF, PROJECT, SERVICE, TRACK
from app.selection import FOLDER, NAME, NotPrepared, Selection
from app.state_machine import SERVICES
from shared.docker.socket_proxy import ID, Missing, Query, Rule, SocketProxy, Spared, only, require, serve, with_labels

_TRACKS = ("stable", "canary", "previous")
_EDGE = "nginx"
_SELECT = re.compile(f"/edge/(?P<name>{NAME})")


class RolloutProxy(SocketProxy):
    """What rollout-service may do."""

    def __init__(self, docker: httpx.AsyncClient, project: str, selection: Selection) -> None:
        super().__init__(docker)
        self._project = project
        self._spared = Spared()
        self._selection = selection
        self.rules = [
            Rule("GET", "/version", self.version),
            Rule("GET", "/containers/json", self.list_containers),
            Rule("GET", f"/containers/(?P<id>{ID})/json", self.inspect),
            Rule("GET", "/images/(?P<name>[A-Za-z0-9][A-Za-z0-9._:/@-]{0,400})/json", self.inspect_image),
            Rule("POST", f"/containers/(?P<id>{ID})/stop", self.stop),
            Rule("DELETE", f"/containers/(?P<id>{ID})", self.remove),
        ]

    async def list_containers(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """Only those of the project are listed, whatever else is filtered by."""
        require(body is None, "has a body")
        only(query, "all", "filters", "limit", "size", "trunc_cmd")
        return with_labels(query, [f"{PROJECT}={self._project}"])

    async def inspect(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Replicas may be looked at."""
        require(body is None, "has a body")
        await self._replica(match["id"])
        return only(query)

    async def inspect_image(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """An image may be looked at."""
        require(body is None and ".." not in match["name"], "is of another form")
        return only(query)

    async def stop(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Replicas may be stopped, but for the last stable one that stays, and the previous ones while they serve."""
        require(body is None, "has a body")
        only(query)
        await self._release(match["id"])
        return query

    async def remove(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Replicas may be removed, but for the last stable one; without force, so that only what has stopped goes."""
        require(body is None, "has a body")
        require(query.get("link", "False") == "False" and query.get("force", "False") == "False", "uses force")
        only(query, "v", "link", "force")
        await self._release(match["id"])
        return query

    async def _release(self, container: str) -> None:
        """Let a replica go. Raises Refused for the last stable one of its service, and for one that NGINX serves by."""
        async with self._spared.lock:
            labels = await self._replica(container)
            if labels[TRACK] == "previous":
                require(not self._selection.is_selected("previous"), "is about a replica that serves all clients")
            if labels[TRACK] == "stable":
                self._spared.release(labels[SERVICE], container, await self._running(labels[SERVICE]))

    async def _running(self, service: str) -> list[Any]:
        """Return what Docker inspects of the running stable replicas of a service."""
        documents = []
        for one in await self._list(f"{SERVICE}={service}", f"{TRACK}=stable", f"{ONE_OFF}=False"):
            # Gone since it was listed.
            with suppress(Missing):
                documents.append(await self.ask(f"/containers/{one['Id']}/json"))
        return documents

    async def _answer(self, method: str, path: str, query: Query, body: Any) -> tuple[int, bytes]:
        """Select a configuration, which is no call to Docker, or pass the call on."""
        selected = _SELECT.fullmatch(path) if method == "POST" else None
        if selected is None:
            return await super()._answer(method, path, query, body)
        require(body is None and not query, "is of another form")
        return await self._select(selected["name"])

    async def _select(self, name: str) -> tuple[int, bytes]:
        if name == "previous":
            await self._require_previous()
        try:
            await asyncio.to_thread(self._selection.select, name)
        except NotPrepared as error:
            raise Missing(str(error)) from error
        except OSError as error:
            return 500, orjson.dumps({"message": f"the selection of {name} could not be written: {error}"})
        running = await self._list(f"{SERVICE}={_EDGE}")
        if not running:
            raise Missing("nginx does not run; it starts with the selected configuration")
        for one in running:
            answer = await self._docker.post(f"/containers/{one['Id']}/kill", params={"signal": "SIGHUP"})
            if answer.is_error:
                return answer.status_code, answer.content
        return 204, b""

    async def _require_previous(self) -> None:
        """Raise Refused where nobody would serve: only the previous pool has no other one behind it."""
        running = await self._list(f"{TRACK}=previous")
        services = {one["Labels"][SERVICE].removesuffix("-previous") for one in running}
        require(services >= set(SERVICES), "selects a version whose replicas do not run")

    async def _list(self, *labels: str) -> Any:
        """Return the running containers of the project with these labels."""
        filters = orjson.dumps({"label": [f"{PROJECT}={self._project}", *labels]}).decode()
        return await self.ask("/containers/json", filters=filters)

    async def _replica(self, container: str) -> Any:
        """Return the labels of a replica of ours. Raises Missing for anything else."""
        labels = await self._labels(container)
        if labels.get(TRACK) not in _TRACKS:
            raise Missing("is about nothing of ours")
        return labels

    async def _labels(self, container: str) -> Any:
        """Return the labels of a container of the project. Raises Missing for any other."""
        labels = (await self.ask(f"/containers/{container}/json"))["Config"]["Labels"] or {}
        if labels.get(PROJECT) != self._project:
            raise Missing("is about nothing of ours")
        return labels


def main() -> None:
    """Serve until SIGTERM. Reads PROJECT."""
    project = os.environ["PROJECT"]
    serve("rollout-proxy", lambda docker: RolloutProxy(docker, project, Selection(FOLDER)))


if __name__ == "__main__":
    main()
