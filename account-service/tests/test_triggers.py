"""The database rejects inconsistent batches, and the service counts them in a metric."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import CheckConstraint
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.commands import Transfer
from app.models import metadata
from app.prometheus import CONSTRAINTS
from app.service import AccountService
from app.storage import repository
from app.storage.triggers import APPEND_ONLY, CHECK_ENTRIES, VIOLATION
from shared.db.database import Write
from shared.ids import new_id
from shared.prometheus.registry import REGISTRY
from tests.support import ledger_request, open_account

Corruption = Callable[[list[Write]], list[Write]]


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """Only PostgreSQL has the triggers."""
    return postgres_url


def with_entries(write: Write, corrupt: Callable[[list[Any]], list[Any]]) -> Write:
    """Return the write with changed rows if it writes entries."""
    if write.table.name != "entries":
        return write
    return Write(write.table, write.columns, corrupt(list(write.rows)), write.key)


def posted_twice(writes: list[Write]) -> list[Write]:
    """Post each entry twice, with matching seq and balance."""

    def twice(rows: list[Any]) -> list[Any]:
        # account_id, seq, transaction_id, amount, balance_after
        return rows + [(row[0], row[1] + 1, row[2], row[3], row[4] + row[3]) for row in rows]

    return [with_entries(write, twice) for write in writes]


def entry_missing(writes: list[Write]) -> list[Write]:
    return [with_entries(write, lambda rows: rows[1:]) for write in writes]


def balance_unchanged(writes: list[Write]) -> list[Write]:
    return [write for write in writes if write.table.name != "accounts" or write.key is None]


def violations(constraint: str) -> float:
    return REGISTRY.get_sample_value("bank_ledger_violations_total", {"constraint": constraint}) or 0.0


@pytest.mark.parametrize(
    ("corrupt", "constraint"),
    [
        (posted_twice, "double_entry"),
        (entry_missing, "double_entry"),
        (balance_unchanged, "balance_of_last_entry"),
    ],
)
async def test_an_inconsistent_batch_is_rejected_and_counted(
    service: AccountService, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, corrupt: Corruption, constraint: str
) -> None:
    source, target = await open_account(service, money=100), await open_account(service)
    original, before = repository.writes_for, violations(constraint)
    monkeypatch.setattr(repository, "writes_for", lambda *of: corrupt(original(*of)))
    with pytest.raises(DBAPIError) as refused:
        await service.execute(ledger_request(Transfer(new_id(), source, target, 10, "USD", None)))
    assert refused.value.orig.__cause__.sqlstate == VIOLATION  # type: ignore[union-attr]
    assert violations(constraint) == before + 1
    monkeypatch.setattr(repository, "writes_for", original)
    response = await service.execute(ledger_request(Transfer(new_id(), source, target, 10, "USD", None)))
    assert response.status == 201
    async with engine.connect() as connection:
        found = [await repository.find_account(connection, account) for account in (source, target)]
    assert [(one.balance, one.seq) for one in found if one] == [(90, 2), (10, 1)]


def test_violations_of_every_constraint_are_counted_from_zero() -> None:
    constraints = [constraint for table in metadata.tables.values() for constraint in table.constraints]
    checks = {str(constraint.name) for constraint in constraints if isinstance(constraint, CheckConstraint)}
    triggers = set(re.findall(r"CONSTRAINT = '(\w+)'", "".join((*CHECK_ENTRIES, *APPEND_ONLY))))
    assert set(CONSTRAINTS) == checks | triggers
