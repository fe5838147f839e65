"""Socket proxy between autoscale-service and Docker: `python -m app.docker_proxy`.

It forwards only the calls that scaling needs, for replicas of one project that are labelled for scaling, and rejects
all others. Anyone who can create arbitrary containers is root on the host, so a new container must be a copy of an
existing replica, and a service update may only change the number of replicas (docs/adr/0007).
"""

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Any

import httpx

from app import replica
from app.scalers import STABLE_LABELS, bounds, swarm
from shared.docker import socket_proxy
from shared.docker.socket_proxy import ID, AllowedCall, NotFound, Query, allow_parameters, require, with_labels


class DockerProxy(socket_proxy.ReplicaProxy):
    """The calls that the autoscaler may make."""

    def __init__(self, docker: httpx.AsyncClient, project: str, max_replicas: int) -> None:
        super().__init__(docker, project)
        self._max_replicas = max_replicas
        self.rules = [
            *self.rules,
            # Concurrent creates could exceed the maximum together.
            AllowedCall("POST", "/containers/create", self.create, asyncio.Lock()),
            AllowedCall("POST", "/networks/(?P<network>[A-Za-z0-9_.-]{1,200})/connect", self.connect),
            AllowedCall("POST", f"/containers/(?P<id>{ID})/start", self.start),
            AllowedCall("GET", "/services", self.list_services),
            AllowedCall("POST", "/services/(?P<id>[a-z0-9]{25})/update", self.update),
        ]

    @property
    def _project_labels(self) -> list[str]:
        return [f"{replica.PROJECT}={self._project}", *STABLE_LABELS]

    async def _labels_of(self, container: str) -> Mapping[str, str]:
        """Return the labels of a scalable container of the project. Raises NotFound for any other."""
        labels: Mapping[str, str] = (await self.get(f"/containers/{container}/json"))["Config"]["Labels"]
        if not replica.belongs_to(labels, self._project):
            raise NotFound("concerns a container outside the project")
        return labels

    @staticmethod
    def _replicas_of(service: str) -> list[str]:
        return [f"{replica.SERVICE}={service}", f"{replica.ONE_OFF}=False"]

    async def create(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """Allow creating a copy of a running replica with another number, up to the maximum number of replicas."""
        labels: Any = body.get("Labels") if isinstance(body, dict) else None
        is_replica = isinstance(labels, dict) and replica.belongs_to(labels, self._project)
        require(is_replica, "is not a replica of the project")
        number, service = str(labels.get(replica.NUMBER)), str(labels.get(replica.SERVICE))
        require(re.fullmatch("[1-9][0-9]{0,4}", number), "has no number")
        siblings = await self._inspected(self._replicas_of(service))
        require(
            any(replica.copy_of(sibling, int(number)) == body for sibling in siblings),
            "is not a copy of a running replica",
        )
        existing = await self._listed(self._replicas_of(service), all="true")
        require(len(existing) < (bounds(labels)[1] or self._max_replicas), "would be more than the maximum")
        require(query == {"name": replica.name_of(labels)}, "has a name that does not match its number")
        return query

    async def connect(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Connect a new replica to the networks of its siblings, with the aliases of a replica."""
        fields = body if isinstance(body, dict) else {}
        require(fields.keys() == {"Container", "EndpointConfig"}, "has an unexpected form")
        require(re.fullmatch(ID, str(fields["Container"])), "names no container")
        labels = await self._labels_of(fields["Container"])
        require(labels.get(replica.CREATED) == "true", "concerns a container that the autoscaler did not create")
        number = int(labels[replica.NUMBER])
        siblings = await self._inspected(self._replicas_of(labels[replica.SERVICE]))
        endpoints = [replica.endpoints_of(sibling, number) for sibling in siblings]
        require(
            any(by_network.get(match["network"]) == fields["EndpointConfig"] for by_network in endpoints),
            "is not a network of its siblings",
        )
        return allow_parameters(query)

    async def start(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Start a replica that the autoscaler created."""
        require(body is None, "has a body")
        labels = await self._labels_of(match["id"])
        require(labels.get(replica.CREATED) == "true", "concerns a container that the autoscaler did not create")
        return allow_parameters(query)

    async def _allow_removal(self, container: str) -> None:
        """Allow the removal of a replica. Raises Forbidden if no other replica of its service remains."""
        async with self._budget.lock:
            service = (await self._labels_of(container))[replica.SERVICE]
            running = await self._inspected(self._replicas_of(service))
            self._budget.allow_removal(service, container, running)

    async def list_services(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """List the scalable services of the stack."""
        require(body is None, "has a body")
        allow_parameters(query, "filters", "status")
        return with_labels(query, [f"{swarm.STACK}={self._project}", *STABLE_LABELS])

    async def update(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Set the number of replicas of a service, within bounds; nothing else may change."""
        service = await self.get(f"/services/{match['id']}")
        spec = service["Spec"]
        require(swarm.belongs_to(spec, self._project), "concerns a service outside the stack")
        mode = body.get("Mode") if isinstance(body, dict) else None
        replicas: Any = mode.get("Replicated", {}).get("Replicas") if isinstance(mode, dict) else None
        maximum = bounds(spec["Labels"])[1] or self._max_replicas
        require(isinstance(replicas, int) and replicas is not True and 1 <= replicas <= maximum, "is out of bounds")
        require(body == swarm.with_replicas(spec, replicas), "changes more than the number of replicas")
        # The compared version only: otherwise a concurrent update would be undone.
        require(query == {"version": str(service["Version"]["Index"])}, "concerns another version of the service")
        return query


def main() -> None:
    """Run until SIGTERM. Reads PROJECT and MAX_REPLICAS."""
    project, max_replicas = os.environ["PROJECT"], int(os.environ.get("MAX_REPLICAS", "8"))
    socket_proxy.serve("docker-proxy", lambda docker: DockerProxy(docker, project, max_replicas))


if __name__ == "__main__":
    main()
