"""Posted transactions and their events: what a faulty release writes is found, and nothing else."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.model import Transaction
from app.jobs import EventCheck
from app.models import outbox
from app.storage import event_check
from shared.ids import utc_now
from shared.messaging.outbox import Outbox
from shared.prometheus.registry import REGISTRY
from app.service import AccountService
from tests.support import ALICE, ledger_request, open_account, transfer

TRANSFER = Transaction("t", "transfer", 5, "USD", "a", "b", None, None, utc_now())
DEBIT = {"account_id": "a", "amount": -5, "currency": "USD", "type": "transfer"}
CREDIT = {**DEBIT, "account_id": "b", "amount": 5}


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([DEBIT, CREDIT], None),
        ([CREDIT, DEBIT], None),
        ([], "missing"),
        ([DEBIT], "different"),
        ([DEBIT, CREDIT, CREDIT], "different"),
        ([DEBIT, {**CREDIT, "amount": 6}], "different"),
        ([DEBIT, {**CREDIT, "account_id": "c"}], "different"),
        ([DEBIT, {**CREDIT, "currency": "EUR"}], "different"),
        ([DEBIT, {**CREDIT, "type": "deposit"}], "different"),
        ([{}, {}], "different"),
    ],
)
def test_events_must_be_those_of_both_entries(events: list[dict[str, Any]], kind: str | None) -> None:
    assert event_check.mismatch(TRANSFER, events) == kind
    assert event_check.mismatch(replace(TRANSFER, amount=7), events) == (kind if not events else "different")


def counted() -> dict[str, float]:
    found = {kind: REGISTRY.get_sample_value("bank_event_mismatches_total", {"kind": kind}) for kind in KINDS}
    return {kind: value or 0 for kind, value in found.items()}


KINDS = ("missing", "different")


@pytest.mark.parametrize(("fault", "kind"), [("", None), ("none", "missing"), ("amount", "different")])
async def test_a_release_without_or_with_wrong_events_is_found(
    service: AccountService, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, fault: str, kind: str | None
) -> None:
    source, target = await open_account(service, ALICE, 1000), await open_account(service)
    check = EventCheck(engine)
    await check.run()
    write = Outbox.write

    def faulty(self: Outbox, events: Any, now: Any) -> Any:
        changed = orjson.loads(orjson.dumps(events))
        for event in changed:
            event["data"]["amount"] = event["data"].get("amount", 0) * 2
        return write(self, [] if fault == "none" else changed if fault == "amount" else events, now)

    monkeypatch.setattr(Outbox, "write", faulty)
    before = counted()
    for _ in range(3):
        response = await service.execute(ledger_request(transfer(source, target, 1)))
        assert response.status == 201
    await check.run()
    await check.run()
    assert {name: counted()[name] - before[name] for name in KINDS} == {name: 3 * (name == kind) for name in KINDS}
    async with engine.connect() as connection:
        assert await connection.scalar(select(outbox.rows.c.id).limit(1)), "earlier events are there"
