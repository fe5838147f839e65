"""The snapshot of the ledger has the events of accounts and entries, as the outbox has them."""

from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application import snapshot
from app.domain.commands import CaptureHold, Deposit, PlaceHold, Reverse, SetStatus
from app.models import outbox
from app.service import AccountService
from shared.db.database import write_transaction
from shared.events import CloudEvent, Event
from shared.ids import new_id, utc_now
from tests.support import ALICE, BOB, OPERATOR_CALLER, ledger_request, open_account, transfer, withdraw

# What the ledger does not have: ids and traces of events, and of openings who requested them.
_LOST = {"id", "traceparent"}
_LOST_OF_OPENINGS = {"requestid", "actor"}


async def move_money(service: AccountService) -> None:
    """Cause entries of all types, a refusal, a hold and a closed account."""
    alices, bobs = await open_account(service, money=1000), await open_account(service, BOB)
    empty = await open_account(service, BOB)
    hold, transferred = new_id(), transfer(alices, bobs, 100)
    for command, caller in (
        (transferred, ALICE),
        (transfer(alices, bobs, 5000), ALICE),
        (Reverse(new_id(), transferred.id, "wrong account"), OPERATOR_CALLER),
        (PlaceHold(hold, alices, 50, "USD", utc_now() + timedelta(minutes=5)), ALICE),
        (CaptureHold(new_id(), hold, 30), OPERATOR_CALLER),
        (Deposit(new_id(), bobs, 27, "USD", "cash"), OPERATOR_CALLER),
        (withdraw(bobs, 20), BOB),
        (SetStatus(empty, "closed"), OPERATOR_CALLER),
    ):
        await service.execute(ledger_request(command, caller))


async def read_pages(engine: AsyncEngine, limit: int) -> list[list[Event]]:
    """Return the pages of the snapshot."""
    pages, cursor = [], ""
    async with engine.connect() as connection:
        while cursor is not None:
            page, cursor = await snapshot.read_page(connection, cursor, limit)  # type: ignore[assignment]
            pages.append(page)
    return pages


async def published(engine: AsyncEngine) -> list[Event]:
    """Return the outbox."""
    async with write_transaction(engine) as connection:
        await outbox.sequence(connection)
        return [event for _, event in await outbox.read(connection, 0, 10_000)]


def key(event: Event) -> tuple[str, str, int]:
    """Return what identifies an event of an account or entry."""
    return event["type"], event["subject"], event["data"]["seq"]


def in_snapshot(originals: list[Event]) -> list[Event]:
    """Return the events of accounts and entries."""
    return [event for event in originals if event["type"] in ("bank.account.opened", "bank.entry.posted")]


def reduced(event: Event) -> Event:
    """Return an event without what the ledger does not have."""
    lost = _LOST | (_LOST_OF_OPENINGS if event["type"] == "bank.account.opened" else set())
    return {name: value for name, value in event.items() if name not in lost}


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_the_snapshot_has_the_events_of_accounts_and_entries(
    service: AccountService, engine: AsyncEngine, limit: int
):
    await move_money(service)
    pages = await read_pages(engine, limit)
    assert limit < 1000 or len(pages) == 2, "a page that is not full is the last one: of accounts, and of entries"
    found = [event for page in pages for event in page]
    originals = await published(engine)
    wanted = in_snapshot(originals)
    assert len(originals) > len(wanted) >= 15
    assert [reduced(event) for event in sorted(found, key=key)] == [reduced(event) for event in sorted(wanted, key=key)]
    assert len({event["id"] for event in found}) == len(found)
    for event in found:
        CloudEvent.model_validate(event)


async def test_a_page_has_entries_of_one_account_or_whole_accounts(service: AccountService, engine: AsyncEngine):
    await move_money(service)
    total = Counter(event["subject"] for page in await read_pages(engine, 1000) for event in page if _is_entry(event))
    for limit in (2, 3, 4, 5):
        pages = [[event for event in page if _is_entry(event)] for page in await read_pages(engine, limit)]
        for page in pages:
            counts = Counter(event["subject"] for event in page)
            assert len(page) <= limit
            assert len(counts) == 1 or all(total[account] == count for account, count in counts.items()) or not page


@pytest.mark.parametrize("limit", [4, 6])
async def test_the_snapshot_of_a_busy_bank_ends(service: AccountService, engine: AsyncEngine, limit: int):
    accounts = [await open_account(service, money=100) for _ in range(3)]
    await move_money(service)
    before = {key(event) for event in in_snapshot(await published(engine))}
    found: set[tuple[str, str, int]] = set()
    cursor: str = ""
    for page in range(60):
        async with engine.connect() as connection:
            events, cursor = await snapshot.read_page(connection, cursor, limit)  # type: ignore[assignment]
        found |= {key(event) for event in events}
        if cursor is None:
            break
        for payer, payee in zip(accounts, accounts[1:] + accounts[:1]):
            await service.execute(ledger_request(transfer(payer, payee, 1)))
    assert cursor is None, f"not after {page} pages"
    assert before <= found


def _is_entry(event: Event) -> bool:
    return bool(event["type"] == "bank.entry.posted")


@pytest.mark.parametrize("cursor", ["x", "accounts/x", "entries/x/1", "entries/1", f"entries/{new_id()}/x"])
async def test_an_invalid_cursor_is_rejected(engine: AsyncEngine, cursor: str):
    async with engine.connect() as connection:
        with pytest.raises(ValueError):
            await snapshot.read_page(connection, cursor)
