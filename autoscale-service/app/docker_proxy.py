"""The one process that holds Docker's socket: `python -m app.docker_proxy`.

It passes on the calls that scaling needs, about the replicas of one project that are labelled for it, and refuses all
others. Who may create any container is root on the host; so a new one has to be a copy of a replica that is there, and
a service update may change the number of replicas alone (docs/adr/0007).
"""

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import nullcontext, suppress
from typing import Any
from urllib.parse import parse_qsl

import httpx
import orjson
import uvicorn

from app import replica
from app.scalers import STABLE_LABELS, bounds, swarm
from shared import logging_config

log = logging.getLogger(__name__)

_MOST_BYTES = 1024 * 1024
# More than a container has to stop; Docker answers when it has.
_SECONDS = 120
_ID = "[0-9a-f]{64}"

Message = MutableMapping[str, Any]
Query = dict[str, str]
Rule = Callable[["DockerProxy", re.Match[str], Query, Any], Awaitable[Query]]


class Refused(Exception):
    """A call that is not passed on; the message says why."""

    status = 403


class Missing(Refused):
    """A call about nothing of ours. To whoever asks, what is not ours is not there."""

    status = 404


def _require(condition: Any, why: str) -> None:
    if not condition:
        raise Refused(why)


def _only(query: Query, *allowed: str) -> Query:
    _require(query.keys() <= set(allowed), "has a parameter that is not needed")
    return query


class DockerProxy:
    """An ASGI application in front of the Engine's API."""

    def __init__(self, docker: httpx.AsyncClient, project: str, most: int) -> None:
        self._docker = docker
        self._project = project
        self._most = most
        # Two creates at once would both find room for one.
        self._creating = asyncio.Lock()

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
        for allowed, pattern, rule in _RULES:
            match = pattern.fullmatch(path) if method == allowed else None
            if match:
                async with self._creating if rule is DockerProxy.create else nullcontext():
                    query = await rule(self, match, query, body)
                    answer = await self._docker.request(method, path, params=query, json=body)
                return answer.status_code, answer.content
        raise Refused("no such call is needed")

    async def _json(self, path: str, **query: str) -> Any:
        answer = await self._docker.get(path, params=query)
        if answer.status_code != 200:
            raise Missing("is about nothing of ours")
        return answer.json()

    async def _own(self, container: str) -> Any:
        """Return a container of ours. Raises Missing for any other."""
        document = await self._json(f"/containers/{container}/json")
        if not replica.is_ours(document["Config"]["Labels"], self._project):
            raise Missing("is about nothing of ours")
        return document

    async def _listed(self, service: str, **query: str) -> list[Any]:
        """Return the list of a service's replicas: those that run, with all="true" the others as well."""
        label = [*self._labels(replica.PROJECT), f"{replica.SERVICE}={service}", f"{replica.ONE_OFF}=False"]
        found: list[Any] = await self._json(
            "/containers/json", filters=orjson.dumps({"label": label}).decode(), **query
        )
        return found

    async def _siblings(self, service: str) -> list[Any]:
        """Return the replicas of a service that run."""
        documents = []
        for one in await self._listed(service):
            # Gone since it was listed.
            with suppress(Missing):
                documents.append(await self._own(one["Id"]))
        return documents

    def _labels(self, owner: str) -> list[str]:
        return [f"{owner}={self._project}", *STABLE_LABELS]

    async def version(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """Anybody may know the version."""
        _require(body is None, "has a body")
        return _only(query)

    async def list_containers(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """Only ours are listed, whatever else is filtered by."""
        _require(body is None, "has a body")
        return self._filtered(_only(query, "all", "filters", "limit", "size", "trunc_cmd"), replica.PROJECT)

    def _filtered(self, query: Query, owner: str) -> Query:
        filters = orjson.loads(query.get("filters", "{}"))
        labels = filters.get("label", []) if isinstance(filters, dict) else None
        _require(isinstance(labels, list), "has filters of another form")
        wanted = {**filters, "label": [*(labels or []), *self._labels(owner)]}
        return {**query, "filters": orjson.dumps(wanted).decode()}

    async def inspect(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Ours may be looked at."""
        _require(body is None, "has a body")
        await self._own(match["id"])
        return _only(query)

    async def create(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """A container may be made that is a copy of one that runs, with another number, and not too many."""
        labels: Any = body.get("Labels") if isinstance(body, dict) else None
        _require(isinstance(labels, dict) and replica.is_ours(labels, self._project), "is no replica of ours")
        number, service = str(labels.get(replica.NUMBER)), str(labels.get(replica.SERVICE))
        _require(re.fullmatch("[1-9][0-9]{0,4}", number), "has no number")
        siblings = await self._siblings(service)
        _require(
            any(replica.copy_of(one, int(number)) == body for one in siblings), "is no copy of a replica that runs"
        )
        existing = await self._listed(service, all="true")
        _require(len(existing) < (bounds(labels)[1] or self._most), "would be more than the maximum")
        _require(query == {"name": replica.name_of(labels)}, "has another name than its number says")
        return query

    async def connect(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """What was made here may join the networks of its siblings, under the names that it has to have."""
        given = body if isinstance(body, dict) else {}
        _require(given.keys() == {"Container", "EndpointConfig"}, "is of another form")
        _require(re.fullmatch(_ID, str(given["Container"])), "names no container")
        labels = (await self._own(given["Container"]))["Config"]["Labels"]
        _require(labels.get(replica.MADE) == "true", "is about a container that was not made here")
        number = int(labels[replica.NUMBER])
        known = [replica.endpoints_of(one, number) for one in await self._siblings(labels[replica.SERVICE])]
        _require(
            any(one.get(match["network"]) == given["EndpointConfig"] for one in known), "is no network of its siblings"
        )
        return _only(query)

    async def start(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """What was made here may be started."""
        _require(body is None, "has a body")
        labels = (await self._own(match["id"]))["Config"]["Labels"]
        _require(labels.get(replica.MADE) == "true", "is about a container that was not made here")
        return _only(query)

    async def stop(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Ours may be stopped, but for the last that runs."""
        _require(body is None, "has a body")
        own = await self._own(match["id"])
        others = await self._siblings(own["Config"]["Labels"][replica.SERVICE])
        _require(any(one["Id"] != own["Id"] for one in others), "is about the last replica")
        return _only(query)

    async def remove(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """Ours may be removed; without force, so that only what has stopped goes."""
        _require(body is None, "has a body")
        await self._own(match["id"])
        _require(query.get("link", "False") == "False" and query.get("force", "False") == "False", "uses force")
        return _only(query, "v", "link", "force")

    async def list_services(self, _match: re.Match[str], query: Query, body: Any) -> Query:
        """Only ours are listed."""
        _require(body is None, "has a body")
        return self._filtered(_only(query, "filters", "status"), swarm.STACK)

    async def update(self, match: re.Match[str], query: Query, body: Any) -> Query:
        """The number of replicas of ours may be set, in bounds; all else has to stay."""
        spec = (await self._json(f"/services/{match['id']}"))["Spec"]
        _require(swarm.is_ours(spec, self._project), "is about a service of others")
        given = body.get("Mode") if isinstance(body, dict) else None
        replicas: Any = given.get("Replicated", {}).get("Replicas") if isinstance(given, dict) else None
        most = bounds(spec["Labels"])[1] or self._most
        _require(isinstance(replicas, int) and 1 <= replicas <= most, "is out of bounds")
        _require(body == swarm.with_replicas(spec, replicas), "changes more than the number of replicas")
        return _only(query, "version")


def _rule(method: str, path: str, rule: Rule) -> tuple[str, re.Pattern[str], Rule]:
    return method, re.compile(r"(/v1\.[0-9]{1,3})?" + path), rule


_RULES = [
    _rule("GET", "/version", DockerProxy.version),
    _rule("GET", "/containers/json", DockerProxy.list_containers),
    _rule("GET", f"/containers/(?P<id>{_ID})/json", DockerProxy.inspect),
    _rule("POST", "/containers/create", DockerProxy.create),
    _rule("POST", "/networks/(?P<network>[A-Za-z0-9_.-]{1,200})/connect", DockerProxy.connect),
    _rule("POST", f"/containers/(?P<id>{_ID})/start", DockerProxy.start),
    _rule("POST", f"/containers/(?P<id>{_ID})/stop", DockerProxy.stop),
    _rule("DELETE", f"/containers/(?P<id>{_ID})", DockerProxy.remove),
    _rule("GET", "/services", DockerProxy.list_services),
    _rule("POST", "/services/(?P<id>[a-z0-9]{25})/update", DockerProxy.update),
]


async def _body(receive: Callable[[], Awaitable[Message]]) -> Any:
    """Return the JSON of a request; None for an empty one. Raises Refused."""
    content, more = b"", True
    while more:
        message = await receive()
        content += message.get("body", b"")
        more = message.get("more_body", False)
        _require(len(content) <= _MOST_BYTES, "is too large")
    try:
        return orjson.loads(content) if content else None
    except orjson.JSONDecodeError as error:
        raise Refused("is no JSON") from error


def main(environ: Mapping[str, str] = os.environ) -> None:
    """Serve until SIGTERM. Reads PROJECT, MAX_REPLICAS, DOCKER_SOCKET, HOST and PORT."""
    logging_config.configure("docker-proxy", environ.get("APP_VERSION", "dev"), "stable", "INFO")
    transport = httpx.AsyncHTTPTransport(uds=environ.get("DOCKER_SOCKET", "/var/run/docker.sock"))
    docker = httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=_SECONDS)
    proxy = DockerProxy(docker, environ["PROJECT"], int(environ.get("MAX_REPLICAS", "8")))
    host, port = environ.get("HOST", "127.0.0.1"), int(environ.get("PORT", "2375"))
    uvicorn.run(proxy, host=host, port=port, log_config=None, access_log=False, lifespan="off", server_header=False)


if __name__ == "__main__":
    main()
