"""A proxy in front of Docker's socket that passes on a few calls and refuses all others.

Who may make any call to Docker is root on the host. What a service may call, and about what, its own rules say.
"""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from typing import Any
from urllib.parse import parse_qsl

import httpx
import orjson
import uvicorn

from shared import logging_config

log = logging.getLogger(__name__)

_MOST_BYTES = 1024 * 1024
# More than a container has to stop; Docker answers when it has.
_SECONDS = 120
# Of a container, in a rule's path.
ID = "[0-9a-f]{64}"

Message = MutableMapping[str, Any]
Query = dict[str, str]
# Gets the path's match, the query and the body (None for an empty one); returns the query to pass on. Raises Refused.
Check = Callable[[re.Match[str], Query, Any], Awaitable[Query]]


class Refused(Exception):
    """A call that is not passed on; the message says why."""

    status = 403


class Missing(Refused):
    """A call about nothing of ours. To whoever asks, what is not ours is not there."""

    status = 404


def require(condition: Any, why: str) -> None:
    """Raise Refused unless the condition holds."""
    if not condition:
        raise Refused(why)


def only(query: Query, *allowed: str) -> Query:
    """Return the query. Raises Refused if it has other parameters than these."""
    require(query.keys() <= set(allowed), "has a parameter that is not needed")
    return query


def with_labels(query: Query, labels: Sequence[str]) -> Query:
    """Return the query of a list with these labels added to what it filters by."""
    filters = orjson.loads(query.get("filters", "{}"))
    wanted = filters.get("label", []) if isinstance(filters, dict) else None
    require(isinstance(wanted, list), "has filters of another form")
    return {**query, "filters": orjson.dumps({**filters, "label": [*(wanted or []), *labels]}).decode()}


class Rule:
    """A call that may be made: its method and path (a pattern, after the API's version), and what it is checked by.

    A rule with a lock is checked and forwarded one call at a time.
    """

    def __init__(self, method: str, path: str, check: Check, lock: Any = None) -> None:
        self.method = method
        self.pattern = re.compile(r"(/v1\.[0-9]{1,3})?" + path)
        self.check = check
        self.lock = lock


class Spared:
    """Keeps the last replica of each service: decides which one may be stopped or removed.

    Docker lists a container as running until its process has ended, so this remembers what it let be stopped. Callers
    hold the lock while they inspect the replicas and call `release`, so that no two decide by the same list.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        # By service: the containers that were told to stop, and when each of them had started.
        self._stopping: dict[str, dict[str, str]] = {}

    def release(self, service: str, container: str, running: Sequence[Any]) -> None:
        """Let a container of a service go; `running` is what Docker inspects of its running ones. Raises Refused.

        Another one has to stay that is not on its way out. A healthy container only makes way for a healthy one.
        """
        started = {one["Id"]: str(one["State"].get("StartedAt", "")) for one in running}
        # One that was started anew since is no longer on its way out.
        stopping = {one: at for one, at in self._stopping.get(service, {}).items() if started.get(one) == at}
        staying = [one for one in running if one["Id"] not in {container, *stopping} and _is_serving(one)]
        healthy = {one["Id"] for one in running if _is_healthy(one)}
        require(staying, "is about the last replica")
        require(
            container not in healthy - stopping.keys() or any(one["Id"] in healthy for one in staying),
            "is about the last replica that is healthy",
        )
        if container in started:
            stopping[container] = started[container]
        self._stopping[service] = stopping


def _is_serving(document: Any) -> bool:
    state = document["State"]
    return not (state.get("Paused") or state.get("Restarting"))


def _is_healthy(document: Any) -> bool:
    """Tell whether Docker's health check, if there is one, succeeds."""
    health = document["State"].get("Health") or {}
    return health.get("Status", "healthy") in ("healthy", "none")


class SocketProxy:
    """An ASGI application in front of the Engine's API. Subclasses have the rules."""

    def __init__(self, docker: httpx.AsyncClient) -> None:
        self._docker = docker
        self.rules: Sequence[Rule] = ()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        try:
            query = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
            status, content = await self._answer(method, path, query, await _body(receive))
        except Refused as refusal:
            log.warning("refused", extra={"call": f"{method} {path}"[:200], "why": str(refusal)})
            status, content = refusal.status, orjson.dumps(
                {"message": f"the socket proxy refuses this call: {refusal}"}
            )
        except httpx.HTTPError as error:
            status, content = 502, orjson.dumps({"message": f"Docker does not answer: {error!r}"})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, method: str, path: str, query: Query, body: Any) -> tuple[int, bytes]:
        if path == "/health/ready":
            return (await self._docker.get("/_ping")).status_code, b"{}"
        for rule in self.rules:
            match = rule.pattern.fullmatch(path) if method == rule.method else None
            if match:
                async with rule.lock or nullcontext():
                    query = await rule.check(match, query, body)
                    answer = await self._docker.request(method, path, params=query, json=body)
                return answer.status_code, answer.content
        raise Refused("no such call is needed")

    async def ask(self, path: str, **query: str) -> Any:
        """Return what Docker says. Raises Missing."""
        answer = await self._docker.get(path, params=query)
        if answer.status_code != 200:
            raise Missing("is about nothing of ours")
        return answer.json()

    async def version(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """Anybody may know the version."""
        require(body is None, "has a body")
        return only(query)


async def _body(receive: Callable[[], Awaitable[Message]]) -> Any:
    """Return the JSON of a request; None for an empty one. Raises Refused."""
    content, more = b"", True
    while more:
        message = await receive()
        content += message.get("body", b"")
        more = message.get("more_body", False)
        require(len(content) <= _MOST_BYTES, "is too large")
    try:
        return orjson.loads(content) if content else None
    except orjson.JSONDecodeError as error:
        raise Refused("is no JSON") from error


def serve(
    name: str, create: Callable[[httpx.AsyncClient], SocketProxy], environ: Mapping[str, str] = os.environ
) -> None:
    """Serve until SIGTERM. Reads DOCKER_SOCKET, HOST and PORT."""
    logging_config.configure(name, environ.get("APP_VERSION", "dev"), "stable", "INFO")
    transport = httpx.AsyncHTTPTransport(uds=environ.get("DOCKER_SOCKET", "/var/run/docker.sock"))
    docker = httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=_SECONDS)
    host, port = environ.get("HOST", "127.0.0.1"), int(environ.get("PORT", "2375"))
    application = create(docker)
    uvicorn.run(
        application, host=host, port=port, log_config=None, access_log=False, lifespan="off", server_header=False
    )
