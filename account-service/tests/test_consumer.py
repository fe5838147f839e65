"""The dry run of a canary's consumer: an account is frozen, and the database transaction rolled back."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.consumer import FlagHandler
from app.service import AccountService
from app.storage import repository
from shared.events import CloudEvent, new_event
from shared.ids import new_id, utc_now
from shared.messaging.positions import Positions, Range
from tests.support import open_account


def flag(account: str, action: str = "freeze") -> CloudEvent:
    data = {"transaction_id": new_id(), "account_id": account, "rule": "large-amount", "score": 100, "action": action}
    return CloudEvent.model_validate(
        new_event(
            source="transaction-service",
            type_="bank.transaction.flagged",
            subject=account,
            time=utc_now(),
            data=data,
        )
    )


async def status(engine: AsyncEngine, account: str) -> str:
    async with engine.connect() as connection:
        found = await repository.find_account(connection, account)
    assert found is not None
    return found.status


async def test_a_dry_run_freezes_and_rolls_back(
    service: AccountService, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await open_account(service)
    handler, event = FlagHandler(engine, service), flag(account)
    await handler.dry_run([event, flag(account, "review")])
    assert await status(engine, account) == "active"
    await handler.process([event], [Range(1, 1)])
    assert await status(engine, account) == "frozen", "the dry run has not used its key"
    assert await handler.consumed() == Positions((Range(1, 1),))
    # Stable has already executed the event: it is executed again, or a defect would not show.
    monkeypatch.setattr(repository, "writes_for", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await handler.dry_run([event])
