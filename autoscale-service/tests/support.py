"""A fake cluster for the controller, and a fake Docker Engine for the SDK."""

import asyncio
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import orjson

from app.controller import Controller
from app.metrics_client import ServiceMetrics
from app.replica import NUMBER, PROJECT, SERVICE
from app.scalers import AUTOSCALE, TRACK, Replicas, ScalingError, UpdateInProgress
from app.settings import AutoscaleSettings
from shared.testing.fixtures import Lab
from shared.testing.timing import assert_prompt

TOKEN = "a-secret-for-webhooks"
ACCOUNT = "account-service"


def make_settings(lab: Lab, **changes: Any) -> AutoscaleSettings:
    """Return settings for tests, with some changed."""
    values = {"auth_jwks": str(lab.secrets.jwks), "autoscale_token": TOKEN, "project": "bank", "docker_url": "tcp://x"}
    return AutoscaleSettings(**{**values, **changes})


@dataclass
class FakeCluster:
    """A service under load: fake scaler, metrics client and clock for a controller."""

    load: Callable[[float], float]
    target: float = 100
    replicas: int = 2
    start_seconds: float = 6
    time: float = 1_000_000
    blind: Callable[[float], bool] = lambda _now: False
    fails: Callable[[str], bool] = lambda _operation: False
    metrics: tuple[str, ...] = ("requests_per_second",)
    # Load over the panic window; none unless set.
    burst: Callable[[float], float] | None = None
    # Number of replicas after each change, with its time.
    changes: list[tuple[float, int]] = field(default_factory=list)
    cleared: int = 0
    stopped: int = 0
    updating: bool = False

    def __post_init__(self) -> None:
        self._ready_at = [self.time] * self.replicas

    @property
    def ready(self) -> int:
        return sum(moment <= self.time for moment in self._ready_at)

    def clock(self) -> float:
        return self.time

    def observe(self) -> Mapping[str, Replicas]:
        self._may("observe")
        return {ACCOUNT: Replicas(len(self._ready_at), self.ready, stopped=self.stopped, updating=self.updating)}

    def scale(self, service: str, replicas: int) -> None:
        assert service == ACCOUNT
        if self.updating:
            raise UpdateInProgress("simulated")
        fewer = replicas < len(self._ready_at)
        self._may("create")
        self._ready_at = self._ready_at[:replicas]
        self._ready_at += [self.time + self.start_seconds] * (replicas - len(self._ready_at))
        self.changes.append((self.time, replicas))
        if fewer:
            self._may("remove")

    def remove_failed(self, service: str) -> int:
        assert service == ACCOUNT
        self._may("remove")
        failed, self.cleared = self.cleared, 0
        return failed

    async def query(self) -> Mapping[str, ServiceMetrics]:
        return {} if self.blind(self.time) else {ACCOUNT: self._measured(self.time)}

    async def query_range(self, start: float, end: float, step: float) -> Mapping[str, Mapping[float, ServiceMetrics]]:
        if self.blind(self.time):
            return {}
        by_time = [start + index * step for index in range(math.floor((end - start) / step) + 1)]
        return {ACCOUNT: {moment: self._measured(moment) for moment in by_time}}

    def _measured(self, when: float) -> ServiceMetrics:
        ready = self.ready
        value = self.load(when) / ready if ready else math.nan
        panic = {self.metrics[0]: self.burst(when) / ready} if self.burst and ready else {}
        targets = dict.fromkeys(self.metrics, self.target)
        return ServiceMetrics(ready, dict.fromkeys(self.metrics, value), panic, targets)

    def _may(self, operation: str) -> None:
        if self.fails(operation):
            raise ScalingError(operation, "simulated")

    def controller(self, lab: Lab, **changes: Any) -> Controller:
        """Return a controller of this cluster."""
        settings = make_settings(lab, **{"metrics": list(self.metrics), "max_replicas": 12, **changes})
        return Controller(self, self, settings, self.clock)

    async def run(self, controller: Controller, seconds: float, step: float = 3) -> None:
        """Run the controller for some simulated seconds."""
        until = self.time + seconds
        while self.time < until:
            await controller.reconcile(may_scale=True)
            await controller.wait_idle()
            self.time += step

    @property
    def reversals(self) -> int:
        """Number of changes of direction."""
        counts = [count for _, count in self.changes]
        steps = [b - a for a, b in zip([self.replicas, *counts], counts) if a != b]
        return sum(a * b < 0 for a, b in zip(steps, steps[1:]))


def replica_document(number: int, service: str = ACCOUNT, **changes: Any) -> dict[str, Any]:
    """Return the Engine's (shortened) document of a replica that compose has started, with changed labels."""
    identifier = hashlib.sha256(f"{service}{number}".encode()).hexdigest()
    labels = {
        PROJECT: "bank",
        SERVICE: service,
        NUMBER: str(number),
        AUTOSCALE: "true",
        TRACK: "stable",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.config-hash": "5f2c",
        "com.docker.compose.replace": "old",
    }
    return {
        "Id": identifier,
        "Created": f"2026-01-01T00:00:{number:02}.5Z",
        "Image": "sha256:" + "1" * 64,
        "State": {"Status": "running", "StartedAt": "2026-01-01T00:00:00Z", "Health": {"Status": "healthy"}},
        "Config": {
            "Hostname": identifier[:12],
            "Image": "bank/account-service:v1",
            "Env": ["APP_TRACK=stable"],
            "User": "10001:10001",
            "Entrypoint": None,
            "Healthcheck": {"Test": ["CMD", "true"]},
            "Labels": {**labels, **changes},
            "StopTimeout": 20,
        },
        "HostConfig": {
            "NetworkMode": "bank_backend",
            "CapDrop": ["ALL"],
            "ReadonlyRootfs": True,
            "Privileged": False,
            "Memory": 268435456,
            "Mounts": [{"Type": "bind", "Source": "/srv/jwks", "Target": "/run/secrets/jwks", "ReadOnly": True}],
        },
        "NetworkSettings": {"Networks": {"bank_monitoring": {}, "bank_backend": {}, "bank_database": {}}},
    }


def service_document(replicas: int = 2, running: int = 2, **labels: str) -> dict[str, Any]:
    """Return the Engine's (shortened) document of a Swarm service."""
    own = {"com.docker.stack.namespace": "bank", AUTOSCALE: "true", TRACK: "stable"}
    return {
        "ID": "s" * 25,
        "Version": {"Index": 7},
        "Spec": {
            "Name": f"bank_{ACCOUNT}",
            "Labels": {**own, **labels},
            "TaskTemplate": {"ContainerSpec": {"Image": "bank/account-service:v1"}},
            "Mode": {"Replicated": {"Replicas": replicas}},
        },
        "ServiceStatus": {"RunningTasks": running, "DesiredTasks": replicas},
    }


class Engine:
    """A fake Docker Engine: an ASGI application with the calls that scaling uses."""

    def __init__(self, *containers: dict[str, Any]) -> None:
        self.containers = {container["Id"]: container for container in containers}
        self.services: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        # Canned responses by prefix of the call.
        self.refusals: dict[str, tuple[int, str]] = {}
        self.health = "starting"
        # Stops respond once this is set, as Docker's do once the process has exited.
        self.stopped = asyncio.Event()
        self.stopped.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        path = scope["path"].removeprefix("/v1.41")
        call = f"{scope['method']} {path}"
        self.calls.append(call)
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        body = orjson.loads(message["body"]) if message.get("body") else None
        if call.endswith("/stop"):
            await self.stopped.wait()
        refused = next((response for start, response in self.refusals.items() if call.startswith(start)), None)
        status, document = self._answer(call, query, body) if refused is None else (refused[0], {"message": refused[1]})
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"" if document is None else orjson.dumps(document)})

    def _answer(self, call: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        method, path = call.split(" ")
        parts = path.strip("/").split("/")
        match method, *parts:
            case "GET", "version":
                return 200, {"ApiVersion": "1.41"}
            case "GET", "_ping":
                return 200, "OK"
            case "GET", "containers", "json":
                return 200, [{"Id": container["Id"]} for container in self._matching(query)]
            case "POST", "containers", "create":
                return self._create(query["name"], body)
            case "POST", "networks", network, "connect":
                self.containers[body["Container"]]["NetworkSettings"]["Networks"][network] = body["EndpointConfig"]
                return 200, None
            case "GET", "services":
                return 200, [service for service in self.services.values() if _has(service["Spec"]["Labels"], query)]
            case _, "services", identifier, *_ if identifier not in self.services:
                return 404, {"message": "no such service"}
            case "GET", "services", identifier:
                return 200, self.services[identifier]
            case "POST", "services", identifier, "update":
                assert query["version"] == str(self.services[identifier]["Version"]["Index"])
                self.services[identifier]["Spec"] = body
                return 200, {"Warnings": None}
            case _, "containers", identifier, *_ if identifier not in self.containers:
                return 404, {"message": "No such container"}
            case "GET", "containers", identifier, "json":
                return 200, self.containers[identifier]
            case "POST", "containers", identifier, "start":
                state = {"Status": "running", "StartedAt": str(len(self.calls)), "Health": {"Status": self.health}}
                self.containers[identifier]["State"] = state
                return 204, None
            case "POST", "containers", identifier, "stop":
                self.containers[identifier]["State"] = {"Status": "exited"}
                return 204, None
            case "DELETE", "containers", identifier:
                del self.containers[identifier]
                return 204, None
        raise AssertionError(f"the engine has no {call}")

    def _matching(self, query: dict[str, str]) -> list[dict[str, Any]]:
        everything = query.get("all") in ("1", "True")
        return [
            container
            for container in self.containers.values()
            if _has(container["Config"]["Labels"], query) and (everything or container["State"]["Status"] == "running")
        ]

    def _create(self, name: str, body: dict[str, Any]) -> tuple[int, Any]:
        identifier = hashlib.sha256(name.encode()).hexdigest()
        if identifier in self.containers:
            return 409, {"message": "name in use"}
        config = {name: value for name, value in body.items() if name not in ("HostConfig", "NetworkingConfig")}
        networks = dict(body["NetworkingConfig"]["EndpointsConfig"])
        self.containers[identifier] = {
            **{"Id": identifier, "Name": name, "Created": "2026-01-01T00:01:00Z", "Image": body["Image"]},
            **{"State": {"Status": "created"}, "Config": config, "HostConfig": body["HostConfig"]},
            "NetworkSettings": {"Networks": networks},
        }
        return 201, {"Id": identifier, "Warnings": []}


def _has(labels: Mapping[str, str], query: dict[str, str]) -> bool:
    wanted = orjson.loads(query.get("filters", "{}")).get("label", [])
    return all(labels.get(one.partition("=")[0]) == one.partition("=")[2] for one in wanted)


async def until(condition: Callable[[], Any]) -> None:
    """Return once the condition holds."""
    with assert_prompt():
        while not condition():
            await asyncio.sleep(0.01)
