"""Fixtures of transaction-service's tests."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.ingestion import EventIngestion
from app.application.reconciler import Reconciler
from app.domain.completeness import LedgerAccount, LedgerState
from app.domain.reconciliation import Balance
from app.ledger_client import LedgerClient
from app.main import create
from app.models import metadata
from app.service import TransactionService
from app.settings import TransactionSettings
from app.storage.grants import GRANTS
from shared.db.grants import Grants
from shared.testing.fixtures import Lab, served_url
from shared.http.web import Service
from shared.testing.timing import BUSY_SECONDS
from tests.support import NOON, Ledger, make_settings

# After the events of most tests, and in their month.
NOW = NOON + timedelta(days=8)


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock of the service."""
    for module in ("service", "ledger_client", "application.reconciler"):
        monkeypatch.setattr(f"app.{module}.utc_now", lambda: NOW)
    monkeypatch.setattr("app.ledger_client._SEQ_TIMEOUT_SECONDS", BUSY_SECONDS)


@pytest.fixture
def ledger() -> Ledger:
    """A fake ledger that records its events."""
    return Ledger()


@pytest.fixture
def settings(lab: Lab, database_url: str) -> TransactionSettings:
    """Settings on a new database."""
    return make_settings(lab, served_url(database_url))


@pytest.fixture
def schema() -> tuple[MetaData, Grants]:
    """What `owner` creates, and `engine` may do."""
    return metadata, GRANTS


class Balances(LedgerClient):
    """A fake client of account-service."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", "")
        self.found: list[Sequence[Balance]] = []
        self.ledger: dict[str, LedgerAccount] | None = None

    async def balances(self) -> AsyncIterator[tuple[datetime, Sequence[Balance]]]:
        """Yield the pages that the test set."""
        for page in self.found:
            yield NOW, page

    async def state_of_account(self, account_id: str) -> LedgerState | None:
        """Return the account that the test set."""
        if self.ledger is None:
            return None
        return LedgerState(NOW, {id_: account for id_, account in self.ledger.items() if id_ == account_id})

    async def state_of_owner(self, owner: str) -> LedgerState | None:
        """Return the accounts that the test set."""
        if self.ledger is None:
            return None
        return LedgerState(NOW, {id_: account for id_, account in self.ledger.items() if account.owner == owner})


@pytest.fixture
async def balances() -> AsyncIterator[Balances]:
    """The fake client of account-service."""
    balances = Balances()
    yield balances
    await balances.close()


@pytest.fixture
def service(engine: AsyncEngine, balances: Balances, reconciler: Reconciler) -> TransactionService:
    """The read side."""
    return TransactionService(engine, balances, reconciler)


@pytest.fixture
def ingestion(engine: AsyncEngine, settings: TransactionSettings) -> EventIngestion:
    """The ingestion of events."""
    return EventIngestion(engine, settings.thresholds)


@pytest.fixture
def reconciler(engine: AsyncEngine, settings: TransactionSettings, balances: Balances) -> Reconciler:
    """The reconciler."""
    return Reconciler(engine, settings, balances)


@pytest.fixture
async def application(engine: AsyncEngine, settings: TransactionSettings) -> AsyncIterator[Service]:
    """The whole application, started."""
    del engine  # creates the tables
    application = create(settings)
    async with application.app.router.lifespan_context(application.app):
        yield application
