"""Held money and active holds: what a faulty release leaves held is found, and nothing else."""

from datetime import timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.commands import CaptureHold, PlaceHold, ReleaseHold
from app.jobs import HoldCheck
from app.models import accounts
from app.service import AccountService
from shared.db.database import write_transaction
from shared.ids import new_id, utc_now
from shared.prometheus.registry import REGISTRY
from tests.support import ledger_request, open_account, transfer


def counted() -> float:
    return REGISTRY.get_sample_value("bank_hold_mismatches_total") or 0


@pytest.mark.parametrize("kept", [0, 40, 100, -60])
async def test_money_that_stays_held_is_found(service: AccountService, engine: AsyncEngine, kept: int) -> None:
    source, other = await open_account(service, money=1000), await open_account(service, money=1000)
    later = utc_now() + timedelta(hours=1)

    async def place(account: str, amount: int) -> str:
        hold = new_id()
        await service.execute(ledger_request(PlaceHold(hold, account, amount, "USD", later)))
        return hold

    captured, voided, _active = [await place(source, amount) for amount in (100, 40, 60)]
    await place(other, 10)
    check, before = HoldCheck(engine), counted()
    await check.run()
    await service.execute(ledger_request(CaptureHold(new_id(), captured, 30)))
    await service.execute(ledger_request(ReleaseHold(voided, "voided")))
    await place(other, 20)
    async with write_transaction(engine) as connection:
        changed = update(accounts).where(accounts.c.id == source).values(held=accounts.c.held + kept)
        await connection.execute(changed)
    await check.run()
    assert counted() == before + bool(kept)
    async with write_transaction(engine) as connection:
        await connection.execute(update(accounts).where(accounts.c.id == source).values(held=60))
    # Accounts whose holds have not changed again are not compared again.
    await service.execute(ledger_request(transfer(other, source, 1)))
    await check.run()
    assert counted() == before + bool(kept)
