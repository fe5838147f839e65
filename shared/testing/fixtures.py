"""Fixtures for the tests of all services: databases of both kinds, tokens, and a client inside the process."""

# pylint: disable=redefined-outer-name  # that is how fixtures are asked for

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import hypothesis
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, MetaData, inspect
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.routing import Route

from shared.testing import lab_keys
from shared.testing.paths import ROOT
from shared.testing.ports import free_port
from shared.testing.postgres import PostgresNotInstalled, PostgresServer
from shared.testing.processes import Process, stop_all
from shared.testing.settings import SettingsEnvironment
from shared.testing.timing import BUSY_SECONDS
from shared.db.database import create_engine, write_transaction
from shared.db.grants import Grants, grant
from shared.db.migrate import upgrade
from shared.http import auth, health, time_limit
from shared.http.request_checks import query_parameters
from shared.http.web import Service
from shared.messaging import transport

# Owns nothing, as the role of a service.
_SERVED_ROLE = "served"
_SQLITE = "sqlite+aiosqlite:///"
# How many times wider than on a pull request the property tests search; the nightly job sets it.
SEARCH_FACTOR = int(os.environ.get("SEARCH_FACTOR", "1"))

# In CI Hypothesis repeats the same examples each time: right for a pull request, useless at night. How long an example
# takes says nothing about the code on a busy machine.
_PULL_REQUEST = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
_NIGHT = hypothesis.settings(_PULL_REQUEST, max_examples=100 * SEARCH_FACTOR, derandomize=False, print_blob=True)
hypothesis.settings.register_profile("search", _NIGHT if SEARCH_FACTOR > 1 else _PULL_REQUEST)
hypothesis.settings.load_profile("search")


def examples(count: int) -> int:
    """Return how many examples a property test tries: the count on a pull request, SEARCH_FACTOR times it at night."""
    return count * SEARCH_FACTOR


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Iterator[None]:
    """Stop the run when a fixture of the whole session fails: every further test would report the same error."""
    try:
        return (yield)
    except (Exception, pytest.fail.Exception) as error:
        if fixturedef.scope == "session":
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            request.session.shouldstop = f"the fixture {fixturedef.argname} failed: {reason}"
        raise


@pytest.fixture(scope="session", autouse=True)
def generous_limits() -> Iterator[None]:
    """Time limits of the services that a busy machine may exceed; the test of such a limit sets its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "_CHECK_SECONDS", BUSY_SECONDS)
        patch.setattr(time_limit, "RESPONSE_SECONDS", BUSY_SECONDS)
        patch.setattr(auth, "_FETCH_SECONDS", BUSY_SECONDS)
        patch.setattr(transport, "_CONNECT_SECONDS", BUSY_SECONDS)
        patch.setattr(transport, "_REQUEST_SECONDS", BUSY_SECONDS)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for this test run; tests that need it skip where its programs are missing."""
    try:
        # Nothing here has to survive a power failure.
        server = PostgresServer({"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"})
    except PostgresNotInstalled as missing:
        pytest.skip(str(missing))
    with server:
        server.sql("postgres", f"CREATE ROLE {_SERVED_ROLE} LOGIN")
        yield server


class Templates:
    """Databases with a service's tables, created once per run and copied for each test: five times cheaper."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[str, int], str] = {}

    def postgres(self, server: PostgresServer, metadata: MetaData, grants: Grants) -> str:
        """Create a PostgreSQL database as a copy and return its address."""
        if not (template := self._made.get(("postgres", id(metadata)))):
            template = self._made["postgres", id(metadata)] = f"template_{uuid.uuid4().hex}"
            asyncio.run(_create_schema(server.create_database(template), metadata, grants))
        name = f"test_{uuid.uuid4().hex}"
        asyncio.run(_execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        return server.url(name)

    def sqlite(self, file: Path, metadata: MetaData) -> str:
        """Create an SQLite database as a copy and return its address."""
        if not (template := self._made.get(("sqlite", id(metadata)))):
            template = self._made["sqlite", id(metadata)] = str(self._folder / f"{uuid.uuid4().hex}.db")
            asyncio.run(create_tables(_SQLITE + template, metadata))
        shutil.copyfile(template, file)
        return f"{_SQLITE}{file}"


async def _execute(server: PostgresServer, statement: str) -> None:
    # A connection of asyncpg takes a third of the CPU time that a process of psql takes.
    connection = await asyncpg.connect(server.url("postgres", "postgresql"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _create_schema(url: str, metadata: MetaData, grants: Grants) -> None:
    await create_tables(url, metadata)
    async for engine in opened(url):
        await serve(engine, grants)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """Databases to copy."""
    return Templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, postgres: PostgresServer) -> str:
    """The address of a new PostgreSQL database: empty, or with the tables of `schema` for tests that use `owner`."""
    if "owner" in request.fixturenames:
        templates: Templates = request.getfixturevalue("templates")
        return templates.postgres(postgres, *request.getfixturevalue("schema"))
    return postgres.create_database(f"test_{uuid.uuid4().hex}")


@pytest.fixture
def sqlite_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new SQLite database: empty, or with the tables of `schema` for tests that use `owner`."""
    file = tmp_path / "test.db"
    if "owner" in request.fixturenames:
        templates: Templates = request.getfixturevalue("templates")
        return templates.sqlite(file, request.getfixturevalue("schema")[0])
    return f"{_SQLITE}{file}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """The address of a new, empty database, once of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


async def create_tables(url: str, metadata: MetaData) -> None:
    """Create the tables of a service's models in an empty database."""
    engine = create_engine(url)
    async with write_transaction(engine) as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()


def served_url(url: str) -> str:
    """Return the address of a database for the role that `serve` gives its grants to; SQLite's is the same."""
    return url.replace("://bank@", f"://{_SERVED_ROLE}@")


async def serve(owner: AsyncEngine, grants: Grants) -> None:
    """Give the role of `served_url` its grants, as migrations do; SQLite has no roles."""
    if owner.dialect.name == "postgresql":
        async with owner.begin() as connection:
            await connection.run_sync(grant, _SERVED_ROLE, grants)


def assert_migrations_match_models(metadata: MetaData, service_folder: Path, url: str) -> None:
    """Migrate an empty database, twice, and fail unless its schema is exactly the one of the models."""

    def compare(connection: Connection) -> None:
        of_types = {"compare_type": connection.dialect.name == "postgresql"}
        differences = compare_metadata(MigrationContext.configure(connection, opts=of_types), metadata)
        assert [difference for difference in differences if "alembic_version" not in str(difference)] == []
        # Alembic compares no checks.
        tables = inspect(connection)
        existing = {str(check["name"]) for table in metadata.tables for check in tables.get_check_constraints(table)}
        constraints = [constraint for table in metadata.tables.values() for constraint in table.constraints]
        assert existing == {
            str(constraint.name) for constraint in constraints if isinstance(constraint, CheckConstraint)
        }

    async def look() -> None:
        async for engine in opened(url):
            async with engine.connect() as connection:
                await connection.run_sync(compare)

    upgrade(service_folder, url)
    upgrade(service_folder, url)  # again: nothing to do
    asyncio.run(look())


async def opened(url: str) -> AsyncIterator[AsyncEngine]:
    """Yield an engine on the database and dispose of it afterwards."""
    engine = create_engine(url)
    engine.pool._timeout = BUSY_SECONDS  # type: ignore[attr-defined]  # pylint: disable=protected-access
    try:
        yield engine
    finally:
        await engine.dispose()


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on a new database with a service's tables, for what the service itself may not do.

    The tables and grants are those of `schema`, a fixture of the service.
    """
    async for engine in opened(database_url):
        yield engine


@pytest.fixture
async def engine(owner: AsyncEngine, database_url: str) -> AsyncIterator[AsyncEngine]:
    """The same with the rights of the service, as which all tests run."""
    del owner  # creates the tables
    async for engine in opened(served_url(database_url)):
        yield engine


@dataclass(frozen=True)
class Lab:
    """The secrets of a lab, and tokens signed with them."""

    secrets: lab_keys.LabSecrets

    @property
    def service_token(self) -> str:
        """The secret that services show each other."""
        return self.secrets.service_token.read_text(encoding="utf-8")

    def headers(self, subject: str, scope: str = "") -> dict[str, str]:
        """Return the Authorization header of a token for the subject."""
        return {"Authorization": f"Bearer {lab_keys.sign(self.secrets.key, subject, scope)}"}

    def operator(self) -> dict[str, str]:
        """Return the Authorization header of an operator."""
        return self.headers("operator", "bank:operator")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Keys and secrets made for this test run."""
    return Lab(lab_keys.ensure(tmp_path_factory.mktemp("secrets")))


@pytest.fixture
def environment(
    request: pytest.FixtureRequest, lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> SettingsEnvironment:
    """The environment with the test module's `COMPLETE` variables and a key set, for its `SETTINGS` class."""
    environment = SettingsEnvironment(request.module.SETTINGS, monkeypatch, capsys)
    environment.set(**request.module.COMPLETE, AUTH_JWKS=str(lab.secrets.jwks))
    return environment


@contextmanager
def serving(service: str, folder: Path, lab: Lab, **environment: str) -> Iterator[str]:
    """Run a service as a process of its own on a new SQLite database, and yield its address."""
    port = free_port()
    env = {
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": f"sqlite+aiosqlite:///{folder}/served.db",
        "PORT": str(port),
        "AUTH_JWKS": str(lab.secrets.jwks),
        "SERVICE_TOKEN_FILE": str(lab.secrets.service_token),
        **environment,
    }
    command = [sys.executable, "-m", "app.migrate"]
    subprocess.run(command, cwd=ROOT / service, env={**os.environ, **env}, check=True, capture_output=True)
    process = Process(service, [sys.executable, "-m", "app"], folder / "served.log", cwd=ROOT / service, env=env)
    process.start()
    try:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.died or time.monotonic() > deadline:
                pytest.fail(f"{service} does not start:\n{process.log_tail()}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop_all([process])


@pytest.fixture
async def client(application: Service, lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the service's `application`, as alice."""
    to = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=to, base_url="http://bank", headers=lab.headers("alice")) as client:
        yield client


_SINGLE_HEADERS = (
    *("Idempotency-Key", "Authorization", "Content-Type", "Content-Encoding", "Accept", "X-Request-ID", "traceparent"),
    *("X-Client-ID", "X-Canary", "X-Grafana-Alerting-Signature", "X-Grafana-Alerting-Timestamp"),
)


async def assert_nothing_is_ignored(service: Service, lab: Lab) -> None:
    """Send what may not be ignored to every route of a service; each has to refuse it. HEAD answers as GET does."""
    to = httpx.ASGITransport(app=service)
    routes = [route for route in service.app.routes if isinstance(route, Route)]
    assert len(routes) > 5
    service_headers = {"Authorization": f"Bearer {lab.service_token}"}
    async with httpx.AsyncClient(transport=to, base_url="http://bank") as client:
        for route in routes:
            headers = service_headers if route.path.startswith("/internal/") else lab.operator()
            for method in sorted(route.methods or ()):
                await _assert_strict(client, route, method, headers)


async def _assert_strict(client: httpx.AsyncClient, route: Route, method: str, headers: dict[str, str]) -> None:
    path = re.sub(r"{\w+}", str(uuid.uuid4()), route.path_format)

    async def refusal(query: str = "", extra: Sequence[tuple[str, str]] = (), content: bytes = b"") -> str:
        sent = [*headers.items(), ("Idempotency-Key", uuid.uuid4().hex), *extra]
        answer = await client.request(method, path + query, headers=sent, content=content)
        return f"{answer.status_code} {answer.text}"

    for name in _SINGLE_HEADERS:
        value = headers.get(name, "application/json")
        assert (await refusal("", [(name, value), (name, value)])).startswith("400"), (method, path, name)
    wrong = await refusal("?misspelt=1")
    names = query_parameters(route)
    assert wrong.startswith("422") and (method == "HEAD" or all(name in wrong for name in names)), (path, wrong)
    for name in names:
        assert (await refusal(f"?{name}=1&{name}=1")).startswith("422"), (path, name)
    if method in ("GET", "HEAD"):
        got, head = [await client.request(method, path, headers=headers) for method in ("GET", "HEAD")]
        assert (got.status_code, got.headers.keys(), head.content) == (head.status_code, head.headers.keys(), b""), path
        assert got.headers.get("content-type") == head.headers.get("content-type")
    else:
        for kind in ({"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}):
            assert (await refusal("", list(kind.items()), b"{}")).startswith("415"), (path, kind)
    response = await client.request("PUT", path, headers=headers)
    allowed = response.headers["allow"].split(", ")
    assert response.status_code == 405 and ("GET" in allowed) == ("HEAD" in allowed) and method in allowed, path
