"""The database rejects inconsistent batches, and the service counts them in a metric."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import CheckConstraint
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.decisions import corrections
from app.domain.commands import Deposit, Reverse, Transfer
from app.models import metadata
from app.prometheus import CONSTRAINTS
from app.service import AccountService
from app.storage import repository
from app.storage.triggers import APPEND_ONLY, CHECK_ENTRIES, CHECK_REVERSALS, VIOLATION
from shared.db.database import Write
from shared.ids import new_id
from shared.prometheus.registry import REGISTRY
from tests.support import OPERATOR_CALLER, ledger_request, open_account

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
        accounts = [await repository.find_account(connection, account) for account in (source, target)]
    assert [(account.balance, account.seq) for account in accounts if account] == [(90, 2), (10, 1)]


async def test_reversals_beyond_the_original_are_rejected_and_counted(
    service: AccountService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release that does not know of earlier reversals."""
    account, before = await open_account(service), violations("reversals_within_original")
    deposit = Deposit(new_id(), account, 100, "USD", None)
    await service.execute(ledger_request(deposit, OPERATOR_CALLER))
    await service.execute(ledger_request(Deposit(new_id(), account, 100, "USD", None), OPERATOR_CALLER))
    part = Reverse(new_id(), deposit.id, None, 60)
    assert (await service.execute(ledger_request(part, OPERATOR_CALLER))).status == 201
    monkeypatch.setattr(corrections, "left_to_reverse", lambda unit, original: original.amount)
    with pytest.raises(DBAPIError):
        await service.execute(ledger_request(Reverse(new_id(), deposit.id, None, 60), OPERATOR_CALLER))
    assert violations("reversals_within_original") == before + 1
    rest = Reverse(new_id(), deposit.id, None, 40)
    assert (await service.execute(ledger_request(rest, OPERATOR_CALLER))).status == 201


def test_violations_of_every_constraint_are_counted_from_zero() -> None:
    constraints = [constraint for table in metadata.tables.values() for constraint in table.constraints]
    checks = {str(constraint.name) for constraint in constraints if isinstance(constraint, CheckConstraint)}
    triggers = set(re.findall(r"CONSTRAINT = '(\w+)'", "".join((*CHECK_ENTRIES, *APPEND_ONLY, *CHECK_REVERSALS))))
    assert set(CONSTRAINTS) == checks | triggers
