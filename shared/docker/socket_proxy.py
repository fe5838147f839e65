"""A proxy in front of Docker's socket that forwards an allow-list of calls and rejects all others.

Full access to the Docker API is root access to the host. Each service defines the calls that it needs.
"""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any
from urllib.parse import parse_qsl

import httpx
import orjson
import uvicorn

from shared import logging_config

log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 1024 * 1024
# Longer than the stop timeout of a container, because Docker responds after it has stopped.
_TIMEOUT_SECONDS = 120
# Pattern of a container id in the path of a rule.
ID = "[0-9a-f]{64}"

Message = MutableMapping[str, Any]
Query = dict[str, str]
# Receives the path match, the query and the body (None if empty); returns the query to forward. Raises Forbidden.
Check = Callable[[re.Match[str], Query, Any], Awaitable[Query]]


class Forbidden(Exception):
    """A rejected call; the message is the reason."""

    status = 403


class NotFound(Forbidden):
    """A call about a resource that does not exist or belongs to another project; both get 404."""

    status = 404


def require(condition: Any, reason: str) -> None:
    """Raise Forbidden unless the condition holds."""
    if not condition:
        raise Forbidden(reason)


def allow_parameters(query: Query, *allowed: str) -> Query:
    """Return the query. Raises Forbidden if it has parameters other than these."""
    require(query.keys() <= set(allowed), "has a parameter that is not allowed")
    return query


def with_labels(query: Query, labels: Sequence[str]) -> Query:
    """Return the query of a list call with these labels added to its filters."""
    filters = orjson.loads(query.get("filters", "{}"))
    wanted = filters.get("label", []) if isinstance(filters, dict) else None
    require(isinstance(wanted, list), "has invalid filters")
    return {**query, "filters": orjson.dumps({**filters, "label": [*(wanted or []), *labels]}).decode()}


class AllowedCall:
    """An allowed call: method, path (a pattern, without the API version) and check.

    Calls with a lock are checked and forwarded one at a time.
    """

    def __init__(self, method: str, path: str, check: Check, lock: Any = None) -> None:
        self.method = method
        self.pattern = re.compile(r"(/v1\.[0-9]{1,3})?" + path)
        self.check = check
        self.lock = lock


class DisruptionBudget:
    """Protects the last replica of each service from being stopped or removed.

    Docker lists a container as running until its process has exited, so this class tracks the containers that are being
    stopped. Callers must hold the lock while they inspect the replicas and call `allow_removal`.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        # By service: start times of the containers that are being stopped, by id.
        self._stopping: dict[str, dict[str, str]] = {}

    def allow_removal(self, service: str, container: str, running: Sequence[Any]) -> None:
        """Allow the removal of a container; `running` are the inspected containers of its service. Raises Forbidden.

        Another container that is not being stopped must remain; if this one is healthy, a healthy one.
        """
        started = {container["Id"]: str(container["State"].get("StartedAt", "")) for container in running}
        # A container that has been restarted since is no longer being stopped.
        earlier = self._stopping.get(service, {})
        stopping = {container: at for container, at in earlier.items() if started.get(container) == at}
        remaining = [one for one in running if one["Id"] not in {container, *stopping} and _is_serving(one)]
        healthy = {container["Id"] for container in running if _is_healthy(container)}
        require(remaining, "would remove the last replica")
        require(
            container not in healthy - stopping.keys() or any(container["Id"] in healthy for container in remaining),
            "would remove the last healthy replica",
        )
        if container in started:
            stopping[container] = started[container]
        self._stopping[service] = stopping


def _is_serving(document: Any) -> bool:
    state = document["State"]
    return not (state.get("Paused") or state.get("Restarting"))


def _is_healthy(document: Any) -> bool:
    """Return whether the container is healthy or has no health check."""
    health = document["State"].get("Health") or {}
    return health.get("Status", "healthy") in ("healthy", "none")


class SocketProxy:
    """An ASGI application in front of the Docker Engine API; subclasses define the rules."""

    def __init__(self, docker: httpx.AsyncClient) -> None:
        self._docker = docker
        self.rules: Sequence[AllowedCall] = ()

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        try:
            query = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
            status, content = await self._respond(method, path, query, await _body(receive))
        except Forbidden as refusal:
            log.warning("rejected Docker API call", extra={"call": f"{method} {path}"[:200], "reason": str(refusal)})
            status, content = refusal.status, orjson.dumps(
                {"message": f"the socket proxy refuses this call: {refusal}"}
            )
        except httpx.HTTPError as error:
            status, content = 502, orjson.dumps({"message": f"Docker does not answer: {error!r}"})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _respond(self, method: str, path: str, query: Query, body: Any) -> tuple[int, bytes]:
        if path == "/health/ready":
            return (await self._docker.get("/_ping")).status_code, b"{}"
        for rule in self.rules:
            match = rule.pattern.fullmatch(path) if method == rule.method else None
            if match:
                async with rule.lock or nullcontext():
                    query = await rule.check(match, query, body)
                    response = await self._docker.request(method, path, params=query, json=body)
                return response.status_code, response.content
        raise Forbidden("is not on the allow-list")

    async def get(self, path: str, **query: str) -> Any:
        """Return the JSON response of a GET call to Docker. Raises NotFound."""
        response = await self._docker.get(path, params=query)
        if response.status_code != 200:
            raise NotFound("concerns a resource outside the project")
        return response.json()

    async def version(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """Allow reading the version."""
        require(body is None, "has a body")
        return allow_parameters(query)


class ReplicaProxy(SocketProxy):
    """A proxy that lets its service list, inspect, stop and remove the replicas of one project.

    Subclasses define which containers are replicas, and which of them may be removed.
    """

    def __init__(self, docker: httpx.AsyncClient, project: str) -> None:
        super().__init__(docker)
        self._project = project
        self._budget = DisruptionBudget()
        self.rules = [
            AllowedCall("GET", "/version", self.version),
            AllowedCall("GET", "/containers/json", self.list_containers),
            AllowedCall("GET", f"/containers/(?P<id>{ID})/json", self.inspect),
            AllowedCall("POST", f"/containers/(?P<id>{ID})/stop", self.stop),
            AllowedCall("DELETE", f"/containers/(?P<id>{ID})", self.remove),
        ]

    @property
    def _project_labels(self) -> Sequence[str]:
        """The labels of the project's containers, as NAME=VALUE."""
        raise NotImplementedError

    async def _labels_of(self, container: str) -> Mapping[str, str]:
        """Return the labels of a replica of the project. Raises NotFound for any other container."""
        raise NotImplementedError

    async def _allow_removal(self, container: str) -> None:
        """Allow the removal of a replica. Raises Forbidden."""
        raise NotImplementedError

    async def list_containers(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """List containers: the labels of the project are added to the filters."""
        require(body is None, "has a body")
        allow_parameters(query, "all", "filters", "limit", "size", "trunc_cmd")
        return with_labels(query, self._project_labels)

    async def inspect(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Inspect a replica."""
        require(body is None, "has a body")
        await self._labels_of(match["id"])
        return allow_parameters(query)

    async def stop(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Stop a replica that may be removed."""
        require(body is None, "has a body")
        allow_parameters(query)
        await self._allow_removal(match["id"])
        return query

    async def remove(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Remove a stopped replica that may be removed."""
        require(body is None, "has a body")
        require(query.get("link", "False") == "False" and query.get("force", "False") == "False", "uses force")
        allow_parameters(query, "v", "link", "force")
        await self._allow_removal(match["id"])
        return query

    async def _listed(self, labels: Sequence[str], **query: str) -> list[Any]:
        """List the project's running containers with these labels too; with all="true", also the stopped ones."""
        filters = orjson.dumps({"label": [*self._project_labels, *labels]}).decode()
        containers: list[Any] = await self.get("/containers/json", filters=filters, **query)
        return containers

    async def _inspected(self, labels: Sequence[str]) -> list[Any]:
        """Inspect the project's running containers with these labels too."""
        documents = []
        for container in await self._listed(labels):
            # Removed since it was listed.
            with suppress(NotFound):
                documents.append(await self.get(f"/containers/{container['Id']}/json"))
        return documents


async def _body(receive: Callable[[], Awaitable[Message]]) -> Any:
    """Return the JSON of a request; None for an empty one. Raises Forbidden."""
    content, more = b"", True
    while more:
        message = await receive()
        content += message.get("body", b"")
        more = message.get("more_body", False)
        require(len(content) <= _MAX_BODY_BYTES, "has a body that is too large")
    try:
        return orjson.loads(content) if content else None
    except orjson.JSONDecodeError as error:
        raise Forbidden("has a body that is not JSON") from error


def serve(
    name: str, create: Callable[[httpx.AsyncClient], SocketProxy], environ: Mapping[str, str] = os.environ
) -> None:
    """Serve until SIGTERM. Reads DOCKER_SOCKET, HOST and PORT."""
    logging_config.configure(name, environ.get("APP_VERSION", "dev"), "stable", "INFO")
    transport = httpx.AsyncHTTPTransport(uds=environ.get("DOCKER_SOCKET", "/var/run/docker.sock"))
    docker = httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=_TIMEOUT_SECONDS)
    host, port = environ.get("HOST", "127.0.0.1"), int(environ.get("PORT", "2375"))
    application = create(docker)
    uvicorn.run(
        application, host=host, port=port, log_config=None, access_log=False, lifespan="off", server_header=False
    )
