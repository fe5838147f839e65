"""Rebuilding the history from the feed."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app import rebuild as rebuild_module
from app.application.flag_events import read_page
from app.application.ingestion import EventIngestion
from app.consumer import HistoryHandler
from app.models import accounts, entries, flags, transactions
from app.rebuild import RebuildError, rebuild
from app.settings import TransactionSettings
from shared.messaging.consumer import Consumer
from shared.messaging.positions import Positions, Range
from shared.db.database import create_engine
from shared.events import CloudEvent
from shared.testing.fixtures import Lab
from shared.messaging.transport import FeedSource
from tests.support import Ledger, flagged, history, make_settings, outbox_events


def feed(events: Sequence[CloudEvent], limit: int, pruned: int = 0) -> FeedSource:
    """Return the feed of a producer that published these events and pruned the first ones."""

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/internal/snapshot":
            return snapshot(request.url.params["after"])
        after = int(request.url.params["after"])
        if after < pruned:
            return httpx.Response(410, headers={"X-First-Position": str(pruned + 1)})
        part = [event.model_dump(mode="json", exclude_none=True) for event in events[after : after + limit]]
        headers = {"X-Next-Position": str(after + len(part))}
        return httpx.Response(200, content=orjson.dumps(part), headers=headers)

    def snapshot(cursor: str) -> httpx.Response:
        # As account-service's, without what is not in the ledger: refusals, and ids and traces of events.
        in_ledger = [event for event in events if event.type != "bank.transaction.refused"]
        in_ledger.sort(key=lambda event: (event.type, event.subject, event.data["seq"]))
        start = int(cursor or 0)
        part = [
            {**event.model_dump(mode="json", exclude_none=True), "id": f"{event.subject}/{event.data['seq']}"}
            for event in in_ledger[start : start + limit]
        ]
        headers = {"X-Head": str(len(events)), "X-Pruned": str(pruned)}
        if start + limit < len(in_ledger):
            headers["X-Next-Cursor"] = str(start + limit)
        return httpx.Response(200, content=orjson.dumps(part), headers=headers)

    return source_of(handle, limit)


def source_of(handle, limit: int = 4) -> FeedSource:
    source = FeedSource("http://account-service", "secret", limit=limit, wait_seconds=0)
    source._client = httpx.AsyncClient(transport=httpx.MockTransport(handle))  # pylint: disable=protected-access
    return source


async def test_a_rebuilt_history_is_identical(ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine):
    alices, bobs = ledger.open(), ledger.open("bob")
    for amount in (20_000_000, 5, 7):
        ledger.deposit(alices, amount)
        ledger.move(alices, bobs, amount)
    ledger.refuse(alices, bobs, 1)
    await ingestion.apply(ledger.events, [Range(1, len(ledger.events))])
    before = await history(engine), await flagged(engine), await outbox_events(engine)
    lines: list[str] = []

    # While the service goes on.
    count, _ = await asyncio.gather(
        rebuild(ingestion, feed(ledger.events, 4), lines.append), ingestion.apply(ledger.events[5:9], [])
    )

    assert count == len(ledger.events) == 15
    assert (await history(engine), await flagged(engine), await outbox_events(engine)) == before
    assert await ingestion.consumed() == Positions((Range(1, 15),))
    assert lines == [f"{events} events so far" for events in (4, 8, 12, 15)]


@pytest.mark.parametrize("pruned", [1, 9, 14])
async def test_a_history_rebuilt_from_the_ledger_is_identical(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine, pruned: int
):
    alices, bobs = ledger.open(), ledger.open("bob")
    for amount in (20_000_000, 5, 7):
        ledger.deposit(alices, amount)
        ledger.move(alices, bobs, amount)
        ledger.refuse(alices, bobs, amount)
        ledger.later(30)
    await ingestion.apply(ledger.events, [Range(1, len(ledger.events))])
    before = await everything(engine), await outbox_events(engine)

    # While the service goes on, with another transfer.
    ledger.move(alices, bobs, 3)
    await asyncio.gather(
        rebuild(ingestion, feed(ledger.events, 4, pruned), print), ingestion.apply(ledger.events[-2:], [])
    )
    without_last = [
        [row for row in rows if ledger.events[-1].data["transaction_id"] not in row]
        for rows in (await everything(engine), before[0])
    ]
    assert without_last[0] == without_last[1] and len(await everything(engine)) == len(before[0]) + 3
    assert await outbox_events(engine) == before[1]
    assert await ingestion.consumed() == Positions((Range(1, len(ledger.events)),))


async def test_a_lost_history_gets_refusals_and_flags_from_what_is_left(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine
):
    alices, bobs = ledger.open(), ledger.open("bob")
    ledger.deposit(alices, 20_000_000)
    ledger.refuse(alices, bobs, 1)
    transfer = ledger.move(alices, bobs, 20_000_000)
    refused = ledger.refuse(alices, bobs, 2)
    consumer = Consumer(feed(ledger.events, 4, pruned=6), HistoryHandler(ingestion))
    while await consumer.step():
        pass
    found = [row[0] for row in (await history(engine))[0]]
    assert len(found) == 3 and found[1:] == [transfer, refused], "the first refusal is lost"
    assert {account for _, account, _ in await flagged(engine)} >= {alices}
    assert await ingestion.consumed() == Positions((Range(1, len(ledger.events)),))


async def test_all_flags_are_in_the_snapshot_as_they_were_published(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine
):
    for _ in range(3):
        account = ledger.open()
        ledger.deposit(account, 20_000_000)
        ledger.withdraw(account, 20_000_000)
    await ingestion.apply(ledger.events, [])
    found, cursor = [], ""
    async with engine.connect() as connection:
        while cursor is not None:
            page, cursor = await read_page(connection, cursor, 2)  # type: ignore[assignment]
            assert len(page) <= 2
            found += page
    published = sorted(await outbox_events(engine), key=lambda event: event["id"])
    assert len(found) >= 3
    assert found == [{name: value for name, value in event.items() if name != "requestid"} for event in published]


async def everything(engine: AsyncEngine) -> list[tuple[Any, ...]]:
    """Return all rows of the history and the flags."""
    async with engine.connect() as connection:
        return [
            tuple(row)
            for table in (accounts, transactions, entries, flags)
            for row in await connection.execute(table.select().order_by(*table.primary_key.columns))
        ]


async def test_an_empty_feed_yields_an_empty_history(ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine):
    ledger.deposit(ledger.open(), 5)
    await ingestion.apply(ledger.events, [])
    assert await rebuild(ingestion, feed([], 4), print) == 0
    assert await history(engine) == ([], [])


@pytest.mark.parametrize(
    ("answer", "why"),
    [(httpx.Response(401), "returned 401"), (httpx.Response(200, text="<html>"), "is unavailable")],
)
async def test_an_unavailable_feed_clears_nothing(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine, answer: httpx.Response, why: str
):
    ledger.deposit(ledger.open(), 5)
    await ingestion.apply(ledger.events, [])
    with pytest.raises(RebuildError, match=why):
        await rebuild(ingestion, source_of(lambda request: answer), print)
    assert len((await history(engine))[1]) == 2


async def test_an_interrupted_rebuild_reports_its_progress(ingestion: EventIngestion, ledger: Ledger):
    ledger.deposit(ledger.open(), 5)
    whole = feed(ledger.events, 2)
    answers = whole.receive

    async def break_off(after: int, **options):
        if after:
            raise httpx.ConnectError("gone")
        return await answers(after, **options)

    whole.receive = break_off  # type: ignore[method-assign]
    with pytest.raises(RebuildError, match="after 2 events; run it again"):
        await rebuild(ingestion, whole, print)


def test_the_command_reports_an_error_in_one_line(
    lab: Lab, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    settings = make_settings(lab, sqlite_url)
    monkeypatch.setattr(rebuild_module, "load_or_exit", lambda settings_class: settings)
    assert rebuild_module.main() == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("rebuild: account-service's feed is unavailable: ConnectError")


async def test_a_database_without_tables_is_reported_in_one_line(settings: TransactionSettings, lab: Lab):
    engine = create_engine(settings.database_url)
    ingestion = EventIngestion(engine, settings.thresholds)
    with pytest.raises(RebuildError, match="^database error: [^\n]+$"):
        await rebuild(ingestion, feed([], 4), print)
    await engine.dispose()
