"""Fixtures of account-service's tests."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.queries import Queries
from app.main import create
from app.models import metadata
from app.service import AccountService
from app.settings import AccountSettings
from app.storage.grants import GRANTS
from shared.db.grants import Grants
from shared.testing.fixtures import Lab, served_url
from shared.http.web import Service
from tests.support import assert_invariants, make_settings


@pytest.fixture
def settings(lab: Lab, database_url: str) -> AccountSettings:
    """Settings on a new database."""
    return make_settings(lab, served_url(database_url))


@pytest.fixture
def schema() -> tuple[MetaData, Grants]:
    """The schema that `owner` creates, and the privileges of `engine`."""
    return metadata, GRANTS


@pytest.fixture
async def service(engine: AsyncEngine, settings: AccountSettings) -> AsyncIterator[AccountService]:
    """The service; the ledger's invariants are checked after the test."""
    service = AccountService(engine, settings)
    yield service
    await service.drain()
    await assert_invariants(engine)


@pytest.fixture
def queries(engine: AsyncEngine) -> Queries:
    """Reads of the service's database."""
    return Queries(engine)


@pytest.fixture
async def application(engine: AsyncEngine, settings: AccountSettings) -> AsyncIterator[Service]:
    """The whole application, started."""
    del engine  # creates the tables
    application = create(settings)
    async with application.app.router.lifespan_context(application.app):
        yield application
