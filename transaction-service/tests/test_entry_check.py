"""A canary's dry run counts the events whose entry is in the history afterwards."""

from typing import Any

import pytest

from app.application import ingestion as ingestion_module
from app.application.ingestion import EventIngestion
from app.consumer import HistoryHandler
from app.domain.projection import Projection
from app.domain.entry_check import ENTRY_TYPES, POSTED, REFUSED
from app.prometheus import ENTRIES
from scripts.faults.faulty.injection import inject
from shared.events import CloudEvent
from tests.support import Ledger


def counted_entries() -> float:
    return sum(ENTRIES.labels(type_)._value.get() for type_ in ENTRY_TYPES)  # pylint: disable=protected-access


async def entries_in_dry_run(ingestion: EventIngestion, events: list[CloudEvent]) -> float:
    """Return how many events of a dry run had their entry."""
    before = counted_entries()
    await HistoryHandler(ingestion).dry_run(events)
    return counted_entries() - before


async def test_a_dry_run_counts_an_entry_for_each_event(ingestion: EventIngestion, ledger: Ledger):
    alices, bobs = ledger.open(), ledger.open("bob")
    ledger.deposit(alices, 100)
    ledger.move(alices, bobs, 30)
    ledger.refuse(alices, bobs, 500)
    ledger.refuse(alices, ledger.cash, 6, "reversal", "credit")
    expected = sum(event.type in ENTRY_TYPES for event in ledger.events)
    assert 0 < expected < len(ledger.events)
    assert await entries_in_dry_run(ingestion, ledger.events) == expected
    # Delivered twice, and after stable has written them.
    await ingestion.apply(ledger.events, [])
    assert await entries_in_dry_run(ingestion, ledger.events * 2) == 2 * expected
    assert await entries_in_dry_run(ingestion, []) == 0


@pytest.mark.parametrize("stable_first", [False, True])
@pytest.mark.parametrize(
    "fault", ["nothing written", "posted skipped", "refusals skipped", "wrong amount", "wrong seq"]
)
async def test_entries_that_a_faulty_consumer_does_not_write_are_not_counted(
    fault: str, stable_first: bool, ingestion: EventIngestion, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    alices, bobs = ledger.open(), ledger.open("bob")
    ledger.move(alices, bobs, 30)
    ledger.refuse(alices, bobs, 500)
    if stable_first:
        await ingestion.apply(ledger.events, [])
    parse, project = ingestion_module.parse, ingestion_module.project
    skipped = {"posted skipped": POSTED, "refusals skipped": REFUSED}.get(fault)

    def changed_projection(items: Any) -> Projection:
        found = project(items)
        for entry in found.posted:
            entry["amount"] += fault == "wrong amount"
            entry["seq"] += fault == "wrong seq"
        return found

    if fault == "nothing written":
        inject("no-history", monkeypatch.setattr)
    monkeypatch.setattr(ingestion_module, "parse", lambda event: None if event.type == skipped else parse(event))
    monkeypatch.setattr(ingestion_module, "project", changed_projection)
    left = {"nothing written": 0, "refusals skipped": 2}.get(fault, 1)
    assert await entries_in_dry_run(ingestion, ledger.events) == left
