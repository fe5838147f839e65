"""Holds Docker's socket for rollout-service: `python -m app.docker_proxy`.

It passes on what taking a rollout back needs: look at the replicas of one project, stop and remove them, and have NGINX
read its configuration again. It starts and creates nothing, and the last stable replica of a service stays.
"""

import os
import re
from contextlib import suppress
from typing import Any

import httpx
import orjson

from app.containers import EDGE, ONE_OFF, PROJECT, SERVICE, TRACK
from shared.socket_proxy import ID, Missing, Query, Rule, SocketProxy, Spared, only, require, serve, with_labels

_TRACKS = ("stable", "canary", "previous")


class RolloutProxy(SocketProxy):
    """What rollout-service may do."""

    def __init__(self, docker: httpx.AsyncClient, project: str) -> None:
        super().__init__(docker)
        self._project = project
        self._spared = Spared()
        self.rules = [
            Rule("GET", "/version", self.version),
            Rule("GET", "/containers/json", self.list_containers),
            Rule("GET", f"/containers/(?P<id>{ID})/json", self.inspect),
            Rule("GET", "/images/(?P<name>[A-Za-z0-9][A-Za-z0-9._:/@-]{0,400})/json", self.inspect_image),
            Rule("POST", f"/containers/(?P<id>{ID})/stop", self.stop),
            Rule("DELETE", f"/containers/(?P<id>{ID})", self.remove),
            Rule("POST", f"/containers/(?P<id>{ID})/kill", self.reload),
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
        """Replicas may be stopped, but for the last stable one that stays."""
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
        """Let a replica go. Raises Refused if it is stable and no other stable one of its service stays."""
        async with self._spared.lock:
            labels = await self._replica(container)
            if labels[TRACK] == "stable":
                self._spared.release(labels[SERVICE], container, await self._running(labels[SERVICE]))

    async def _running(self, service: str) -> list[Any]:
        """Return what Docker inspects of the running stable replicas of a service."""
        label = [f"{PROJECT}={self._project}", f"{SERVICE}={service}", f"{TRACK}=stable", f"{ONE_OFF}=False"]
        documents = []
        for one in await self.ask("/containers/json", filters=orjson.dumps({"label": label}).decode()):
            # Gone since it was listed.
            with suppress(Missing):
                documents.append(await self.ask(f"/containers/{one['Id']}/json"))
        return documents

    async def reload(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """NGINX may be sent the signal that makes it read its configuration."""
        require(body is None, "has a body")
        labels = await self._labels(match["id"])
        if labels.get(SERVICE) != EDGE:
            raise Missing("is about nothing of ours")
        require(query == {"signal": "SIGHUP"}, "sends another signal")
        return query

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
    serve("rollout-proxy", lambda docker: RolloutProxy(docker, project))


if __name__ == "__main__":
    main()
