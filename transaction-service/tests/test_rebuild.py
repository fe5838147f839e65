"""Rebuilding the history from the feed."""

import asyncio
from collections.abc import Sequence

import httpx
import orjson
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app import rebuild as rebuild_module
from app.application.ingestion import EventIngestion
from app.rebuild import RebuildError, rebuild
from app.settings import TransactionSettings
from shared.messaging.positions import Positions, Range
from shared.db.database import create_engine
from shared.events import CloudEvent
from shared.testing.fixtures import Lab
from shared.messaging.transport import FeedSource
from tests.support import Ledger, flagged, history, make_settings, outbox_events


def feed(events: Sequence[CloudEvent], limit: int) -> FeedSource:
    """Return the feed of a producer that published these events."""

    def handle(request: httpx.Request) -> httpx.Response:
        after = int(request.url.params["after"])
        part = [event.model_dump(mode="json", exclude_none=True) for event in events[after : after + limit]]
        headers = {"X-Next-Position": str(after + len(part))}
        return httpx.Response(200, content=orjson.dumps(part), headers=headers)

    return source_of(handle)


def source_of(handle) -> FeedSource:
    source = FeedSource("http://account-service", "secret", wait_seconds=0)
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
