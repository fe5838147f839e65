"""Fixtures for the tests of all services: databases of both kinds, tokens, and a client inside the process."""

# pylint: disable=redefined-outer-name  # that is how fixtures are asked for

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, MetaData, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from scripts import lab_keys
from scripts.embedded import ROOT
from scripts.ports import free_port
from scripts.postgres import PostgresMissing, PostgresServer
from scripts.processes import Process, stop_all
from shared.database import create_engine, write_transaction
from shared.grants import Grants, grant
from shared.migrate import upgrade
from shared.settings import ProcessSettings, load_or_exit

# Owns nothing, as the role of a service.
_SERVED_ROLE = "served"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server for this test run; tests that need it skip where its programs are missing."""
    try:
        # Nothing here has to survive a power failure.
        server = PostgresServer({"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"})
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    with server:
        server.sql("postgres", f"CREATE ROLE {_SERVED_ROLE} LOGIN")
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The address of a new, empty PostgreSQL database."""
    return postgres.create_database(f"test_{uuid.uuid4().hex}")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The address of a new, empty SQLite database."""
    return f"sqlite+aiosqlite:///{tmp_path}/test.db"


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


def assert_migrations_make(metadata: MetaData, service_folder: Path, url: str) -> None:
    """Migrate an empty database, twice, and fail unless its schema is exactly the one of the models."""

    def compare(connection: Connection) -> None:
        of_types = {"compare_type": connection.dialect.name == "postgresql"}
        found = compare_metadata(MigrationContext.configure(connection, opts=of_types), metadata)
        assert [difference for difference in found if "alembic_version" not in str(difference)] == []
        # Alembic compares no checks.
        tables = inspect(connection)
        made = {str(check["name"]) for table in metadata.tables for check in tables.get_check_constraints(table)}
        constraints = [constraint for table in metadata.tables.values() for constraint in table.constraints]
        assert made == {str(one.name) for one in constraints if isinstance(one, CheckConstraint)}

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
    try:
        yield engine
    finally:
        await engine.dispose()


@pytest.fixture
async def owner(schema: tuple[MetaData, Grants], database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on a new database with a service's tables, for what the service itself may not do.

    `schema` is a fixture of the service.
    """
    metadata, grants = schema
    await create_tables(database_url, metadata)
    async for engine in opened(database_url):
        await serve(engine, grants)
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


def refused_settings(kind: type[ProcessSettings], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the names of the settings that keep a process from starting, in order; there have to be some."""
    with pytest.raises(SystemExit) as caught:
        load_or_exit(kind)
    assert caught.value.code == 2
    return sorted(line.split(":")[0].removeprefix("setting ") for line in capsys.readouterr().err.splitlines())


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
        deadline = time.monotonic() + 30
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
