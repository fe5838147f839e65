"""Events become history once, in any order, on both databases."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application import ingestion as ingestion_module
from app.application.ingestion import EventIngestion
from app.consumer import HistoryHandler
from app.models import inbox, metadata
from app.prometheus import FLAGS
from app.service import TransactionService
from app.storage import history as history_storage
from app.settings import TransactionSettings
from shared.messaging.consumer import Consumer
from shared.db.database import create_engine, write_transaction
from shared.events import CloudEvent
from shared.ids import new_id
from shared.http.problems import Problem
from shared.testing.fixtures import examples
from shared.messaging.batches import Batch
from shared.messaging.positions import Positions, Range
from tests.support import ALICE, BOB, NOON, OPERATOR_CALLER, Ledger, flagged, history, listed_ids, outbox_events


def changed(event: CloudEvent, **data: Any) -> CloudEvent:
    return event.model_copy(update={"id": new_id(), "data": {**event.data, **data}})


async def test_two_entries_are_one_transaction(ingestion: EventIngestion, service: TransactionService, ledger: Ledger):
    alices, bobs = ledger.open(), ledger.open("bob")
    ledger.deposit(alices, 100)
    paid = ledger.move(alices, bobs, 30, reference="rent")
    await ingestion.apply(ledger.events, [])

    shown = await service.transaction(ALICE, paid)
    assert shown == {
        **{"id": paid, "type": "transfer", "status": "posted", "amount": 30, "currency": "USD", "reverses": None},
        **{"from_account": alices, "to_account": bobs, "reference": "rent"},
        "created_at": "2026-11-20T12:00:00.000000Z",
        "entries": [
            {"account_id": alices, "amount": -30, "seq": 2, "balance_after": 70},
            {"account_id": bobs, "amount": 30, "seq": None, "balance_after": None},
        ],
    }
    assert [entry["seq"] for entry in (await service.transaction(BOB, paid))["entries"]] == [None, 1]
    assert [entry["seq"] for entry in (await service.transaction(OPERATOR_CALLER, paid))["entries"]] == [2, 1]


async def test_one_entry_alone_is_enough(ingestion: EventIngestion, service: TransactionService, ledger: Ledger):
    alices, bobs = ledger.open(), ledger.open("bob")
    paid = ledger.move(alices, bobs, 30)
    opened, _, debit, credit = ledger.events
    for alone in (credit, debit):
        await ingestion.apply([opened, alone], [])
        shown = await service.transaction(OPERATOR_CALLER, paid)
        assert (shown["from_account"], shown["to_account"], shown["amount"]) == (alices, bobs, 30)
    assert len(shown["entries"]) == 2


async def test_a_refused_transaction_is_listed_for_its_account_only(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger
):
    alices, bobs = ledger.open(), ledger.open("bob")
    refused = ledger.refuse(alices, bobs, 500)
    held = ledger.refuse(alices, ledger.cash, 70, "hold")
    credited = ledger.refuse(alices, ledger.cash, 5, "deposit")
    returned = ledger.refuse(alices, ledger.cash, 6, "reversal", "credit")
    await ingestion.apply(ledger.events, [])

    shown = await service.transaction(ALICE, refused)
    assert (shown["status"], shown["code"], shown["entries"]) == ("refused", "insufficient-funds", [])
    assert (shown["from_account"], shown["to_account"]) == (alices, bobs)
    for taken in (credited, returned):
        assert (await service.transaction(ALICE, taken))["from_account"] == ledger.cash
    assert await listed_ids(service) == [returned, credited, held, refused]
    assert await listed_ids(service, BOB) == []
    with pytest.raises(Problem, match="not-found"):
        await service.transaction(BOB, refused)
    statement = await service.statement(ALICE, alices, NOON - timedelta(days=1), NOON + timedelta(days=1))
    assert (statement.lines, statement.closing.balance) == ([], 0)


async def test_other_events_are_consumed_without_effect(ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine):
    ledger.open()
    others = [
        ledger.events[0].model_copy(update={"id": new_id(), "type": type_, "data": {"transaction_id": ["x"]}})
        for type_ in ("bank.hold.placed", "bank.transaction.flagged", "bank.something.new")
    ]
    await ingestion.apply(others, [Range(1, 3)])
    assert await history(engine) == ([], []) and await ingestion.consumed() == Positions((Range(1, 3),))


async def test_an_account_is_known_from_any_of_its_events(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger
):
    alices = ledger.open()
    frozen = ledger.events[0].model_copy(update={"id": new_id(), "type": "bank.account.frozen"})
    await ingestion.apply([frozen], [])
    assert (await service.statement(ALICE, alices, None, None)).currency == "USD"


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": "many"},
        {"amount": 2**63},
        {"seq": None},
        {"account_id": "not-an-id"},
        {"type": 1},
        {"created_at": "2026-11-20T12:00:00"},
    ],
)
async def test_a_poison_event_is_dead_lettered_and_blocks_no_others(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine, wrong: dict[str, Any]
):
    alices = ledger.open()
    ledger.deposit(alices, 100)
    poison = changed(ledger.events[-1], **wrong)

    async def nothing(_seconds: float = 0) -> None:
        """Do nothing."""

    class Source:  # pylint: disable=missing-class-docstring
        async def dead_letter(self, raw: Any, reason: str) -> None:
            assert raw["id"] == poison.id and reason

    raw = [event.model_dump(mode="json", exclude_none=True) for event in (*ledger.events, poison)]
    consumer = Consumer(Source(), HistoryHandler(ingestion), pause=nothing)  # type: ignore[arg-type]
    await consumer.consume([Batch(raw, 1)])

    assert await ingestion.consumed() == Positions((Range(1, 4),))
    assert len((await history(engine))[1]) == 2
    async with engine.connect() as connection:
        assert (await connection.scalars(select(inbox.dead_letters.c.event_id))).all() == [poison.id]


async def test_positions_are_committed_with_the_effect_or_not_at_all(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    ledger.deposit(ledger.open(), 100)
    with monkeypatch.context() as patch:
        patch.setattr(inbox, "add_consumed", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await ingestion.apply(ledger.events, [Range(1, 3)])
    assert await history(engine) == ([], []) and await ingestion.consumed() == Positions()
    await ingestion.apply(ledger.events, [Range(1, 3)])
    assert await ingestion.consumed() == Positions((Range(1, 3),)) and len((await history(engine))[1]) == 2


async def test_events_received_by_several_replicas_are_added_once(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine
):
    one, other = ledger.open(), ledger.open()
    for _ in range(30):
        ledger.move(one, other, 1_000_000)
        one, other = other, one
    shuffled = [random.Random(seed).sample(ledger.events, len(ledger.events)) for seed in range(6)]
    await asyncio.gather(*(ingestion.apply(events, [Range(1, len(events))]) for events in shuffled))
    assert len((await history(engine))[1]) == 60
    assert len(events := await outbox_events(engine)) == len({event["id"] for event in events}) > 30


async def test_a_finding_across_replicas_is_detected_once(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine
):
    alices = ledger.open()
    await ingestion.apply(ledger.events, [])
    for _ in range(20):
        ledger.withdraw(alices, 1)
    payments = [event for event in ledger.events if event.subject == alices][1:]
    await asyncio.gather(*(ingestion.apply([event], []) for event in payments))
    assert [rule for rule, _, _ in await flagged(engine)] == ["velocity"]


async def test_a_conflict_between_replicas_is_retried(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    ledger.open()
    add, calls = history_storage.add, []

    async def conflicting(connection, projection):
        calls.append(projection)
        if len(calls) < 3:
            await connection.exec_driver_sql("this is no SQL")
        return await add(connection, projection)

    monkeypatch.setattr(history_storage, "add", conflicting)
    monkeypatch.setattr(ingestion_module, "is_retryable", lambda error: True)
    await ingestion.apply(ledger.events, [Range(1, 1)])
    assert len(calls) == 3 and await ingestion.consumed() == Positions((Range(1, 1),))
    calls.clear()
    monkeypatch.setattr(ingestion_module, "is_retryable", lambda error: False)
    with pytest.raises(Exception, match="this is no SQL"):
        await ingestion.apply(ledger.events, [Range(2, 2)])
    assert await ingestion.consumed() == Positions((Range(1, 1),))


async def test_a_dry_run_does_all_the_work_and_rolls_back(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
):
    alices = ledger.open()
    ledger.withdraw(alices, 10_000_001)
    handler = HistoryHandler(ingestion)
    await handler.dry_run(ledger.events)
    assert await history(engine) == ([], []) and await flagged(engine) == set() and await outbox_events(engine) == []
    await ingestion.apply(ledger.events, [])
    before = await history(engine), await flagged(engine), await outbox_events(engine)
    # Stable has processed them before: it is all done again, or a bug in it would not show.
    monkeypatch.setattr(ingestion_module.fraud, "evaluate", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await handler.dry_run(ledger.events)
    assert (await history(engine), await flagged(engine), await outbox_events(engine)) == before


# Flags ----------------------------------------------------------------------------------------------------------------


async def test_a_finding_is_published_once(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger, engine: AsyncEngine
):
    alices = ledger.open()
    paid = ledger.withdraw(alices, 10_000_001)
    before = FLAGS.labels("large-amount")._value.get()  # pylint: disable=protected-access
    await ingestion.apply(ledger.events, [])
    again = [event.model_copy(update={"id": new_id()}) for event in ledger.events]
    await ingestion.apply(again, [])

    (event,) = await outbox_events(engine)
    assert event["type"] == "bank.transaction.flagged" and event["subject"] == alices
    assert event["source"] == "/transaction-service" and event["requestid"] == "request-1"
    assert event["data"] == {
        **{"transaction_id": paid, "account_id": alices, "rule": "large-amount", "score": 100, "action": "freeze"}
    }
    (flag,) = await service.flags(OPERATOR_CALLER, None, None, 50)
    assert flag["id"] == event["id"] and flag["transaction_id"] == paid
    assert FLAGS.labels("large-amount")._value.get() == before + 1  # pylint: disable=protected-access


async def test_the_cash_account_is_never_flagged(ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine):
    alices = ledger.open()
    ledger.deposit(alices, 50_000_000)
    await ingestion.apply(ledger.events, [])
    assert await flagged(engine) == set()


async def test_an_account_is_evaluated_once_its_event_arrives(
    ingestion: EventIngestion, ledger: Ledger, engine: AsyncEngine
):
    alices = ledger.open()
    paid = ledger.withdraw(alices, 10_000_001)
    await ingestion.apply(ledger.events[1:], [])
    assert await flagged(engine) == set()
    await ingestion.apply(ledger.events[:1], [])
    assert await flagged(engine) == {("large-amount", alices, paid)}


async def test_flags_are_listed_newest_first_in_pages_for_operators(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger
):
    alices, bobs = ledger.open(), ledger.open("bob")
    for account in (alices, bobs, alices):
        ledger.withdraw(account, 1_000_000)
        ledger.later(3600)
        await ingestion.apply(ledger.events, [])
    with pytest.raises(Problem, match="forbidden"):
        await service.flags(ALICE, None, None, 50)
    found = await service.flags(OPERATOR_CALLER, None, None, 50)
    assert [flag["account_id"] for flag in found] == [alices, bobs, alices]
    pages = [await service.flags(OPERATOR_CALLER, None, after["id"], 1) for after in found]
    assert pages == [[found[1]], [found[2]], []]
    assert await service.flags(OPERATOR_CALLER, bobs, None, 50) == [found[1]]
    assert await service.flags(OPERATOR_CALLER, None, new_id(), 50) == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["deposit", "withdraw", "transfer", "refuse"]),
        st.sampled_from([1, 95_000, 100_000, 1_000_000, 10_000_001]),
        st.sampled_from([0, 1, 59, 60, 61, 200]),
    ),
    max_size=15,
)


def ledger_after(steps: list[tuple[str, int, int]]) -> Ledger:
    """Return the ledger after the steps, with two accounts."""
    ledger = Ledger()
    alices, bobs = ledger.open(), ledger.open("bob")
    for step, amount, seconds in steps:
        ledger.later(seconds)
        {
            "deposit": lambda: ledger.deposit(alices, amount),
            "withdraw": lambda: ledger.withdraw(alices, amount),
            "transfer": lambda: ledger.move(alices, bobs, amount),
            "refuse": lambda: ledger.refuse(alices, bobs, amount),
        }[step]()
    return ledger


async def history_after(
    engine: AsyncEngine, settings: TransactionSettings, batches: list[list[CloudEvent]]
) -> tuple[Any, Any]:
    async with write_transaction(engine) as connection:
        for table in metadata.tables.values():
            await connection.execute(delete(table))
    ingestion = EventIngestion(engine, settings.thresholds)
    for batch in batches:
        await ingestion.apply(batch, [])
    announced = [(event["data"]["rule"], event["subject"], event["id"]) for event in await outbox_events(engine)]
    found = await flagged(engine)
    assert len(announced) == len(found)
    return await history(engine), found


@given(steps=STEPS, chance=st.randoms())
@hypothesis_settings(
    max_examples=examples(8),
    deadline=None,
    # Looking for the smallest example takes minutes with a database; those here are small.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_order_of_arrival_does_not_matter(
    database_url: str, settings: TransactionSettings, steps: list[tuple[str, int, int]], chance: random.Random
):
    settings = settings.model_copy(update={"fraud_velocity_count": 3})
    ledger = ledger_after(steps)
    # At least once: some come twice, in the same batch or another.
    events = ledger.events + chance.sample(ledger.events, len(ledger.events) // 3)
    chance.shuffle(events)
    batches: list[list[CloudEvent]] = [[]]
    for event in events:
        batches[-1].append(event)
        if chance.random() < 0.3:
            batches.append([])

    async def compare() -> None:
        engine = create_engine(database_url)
        async with write_transaction(engine) as connection:
            await connection.run_sync(metadata.create_all)
        expected = await history_after(engine, settings, [ledger.events])
        assert await history_after(engine, settings, batches) == expected
        assert await history_after(engine, settings, [[event] for event in ledger.events]) == expected
        await engine.dispose()

    asyncio.run(compare())
