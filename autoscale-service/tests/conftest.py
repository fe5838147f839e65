"""Fixtures of autoscale-service's tests."""

import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from docker.client import DockerClient

from app import main
from app.docker_proxy import DockerProxy
from app.scalers import registry
from app.scalers.compose import connect_docker
from app.settings import AutoscaleSettings
from shared.testing.ports import free_port
from shared.testing.fixtures import Lab
from shared.http.web import Service
from tests.support import ACCOUNT, TOKEN, Engine, FakeCluster, make_settings, replica_document, until


@pytest.fixture
def cluster() -> FakeCluster:
    """A service of two replicas under a load of one."""
    return FakeCluster(lambda _now: 100)


@pytest.fixture
def settings(lab: Lab, tmp_path: Path) -> AutoscaleSettings:
    """Settings with a separate state directory."""
    return make_settings(lab, state_dir=tmp_path / "state", metrics=["requests_per_second"], idle_interval_seconds=3600)


@pytest.fixture
async def application(
    settings: AutoscaleSettings, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    """The whole application, started, on a fake cluster."""
    monkeypatch.setitem(registry.SCALERS, "compose", lambda _settings: cluster)
    monkeypatch.setattr(main, "PrometheusClient", lambda _url, _client: cluster)
    application = main.create(settings)
    async with application.app.router.lifespan_context(application.app):
        # Until the first pass has decided; the loop is idle then.
        await until(lambda: application.app.state.controller.status().get(ACCOUNT, {}).get("proposal"))
        yield application


@pytest.fixture
async def client(application: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application that sends the secret."""
    transport = httpx.ASGITransport(app=application)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://autoscaler", headers=headers) as client:
        yield client


@pytest.fixture
def engine() -> Engine:
    """An Engine with two replicas, a database and a canary."""
    others = [
        replica_document(1, "postgres", **{"banking.autoscale": "false"}),
        replica_document(9, "account-service", **{"banking.track": "canary"}),
    ]
    return Engine(replica_document(1), replica_document(2), *others)


@contextmanager
def served(application: object) -> Iterator[str]:
    """Serve an ASGI application in a thread and yield its address."""
    port = free_port()
    config = uvicorn.Config(application, port=port, lifespan="off", log_level="error")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"tcp://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def docker(engine: Engine) -> Iterator[DockerClient]:
    """Docker's own client, connect_docker to the Engine by way of the socket proxy."""
    upstream = httpx.AsyncClient(transport=httpx.ASGITransport(app=engine), base_url="http://docker")
    with served(DockerProxy(upstream, "bank", 4)) as url:
        client = connect_docker(url)
        yield client
        client.close()
