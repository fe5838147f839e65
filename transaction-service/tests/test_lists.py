"""Lists and statements, on both databases."""

from datetime import timedelta

import pytest

from app.application.ingestion import EventIngestion
from app.service import TransactionService
from app.storage.queries import TransactionFilter
from shared.ids import new_id
from shared.http.problems import Problem
from tests.support import ALICE, BOB, NOON, OPERATOR_CALLER, Ledger, listed_ids


async def test_transactions_are_filtered_by_account_type_and_time(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger
):
    alices, savings, bobs = ledger.open(), ledger.open(), ledger.open("bob")
    first = ledger.deposit(alices, 100)
    ledger.later(60)
    second = ledger.move(alices, savings, 10)
    ledger.later(60)
    third = ledger.deposit(bobs, 5)
    ledger.later(60)
    fourth = ledger.move(alices, bobs, 20)
    await ingestion.apply(ledger.events, [])

    # A transfer between two of her accounts is one transaction.
    assert await listed_ids(service) == [fourth, second, first]
    assert await listed_ids(service, BOB) == [fourth, third]
    assert await listed_ids(service, OPERATOR_CALLER) == [fourth, third, second, first]
    assert await listed_ids(service, account_id=savings) == [second]
    assert await listed_ids(service, type="transfer") == [fourth, second]
    minute = timedelta(seconds=60)
    assert await listed_ids(service, start=NOON + minute, end=NOON + 3 * minute) == [second]
    assert await listed_ids(service, account_id=alices, start=NOON, end=NOON + minute) == [first]
    assert await listed_ids(service, OPERATOR_CALLER, account_id=ledger.cash) == [third, first]
    with pytest.raises(Problem, match="not-found"):
        await listed_ids(service, account_id=bobs)
    with pytest.raises(Problem, match="not-found"):
        await listed_ids(service, account_id=ledger.cash)
    pages = [
        await service.transactions(ALICE, TransactionFilter("alice"), last, 1) for last in (None, fourth, second, first)
    ]
    assert [[item["id"] for item in page.items] for page in pages] == [[fourth], [second], [first], []]


async def test_a_group_is_listed(ingestion: EventIngestion, service: TransactionService, ledger: Ledger):
    alices, savings, bobs, carols = ledger.open(), ledger.open(), ledger.open("bob"), ledger.open("carol")
    group = new_id()
    fee = ledger.move(alices, carols, 2, group_id=group)
    ledger.later(60)
    price = ledger.move(alices, bobs, 10, reference="price", group_id=group)
    saved = ledger.move(alices, savings, 1, group_id=group)
    ledger.move(alices, bobs, 3, group_id=new_id())
    single = ledger.move(alices, bobs, 4)
    refused = ledger.refuse(alices, bobs, 5, direction="debit", group_id=(refused_group := new_id()))
    await ingestion.apply(ledger.events, [])

    assert await listed_ids(service, group_id=group) == [saved, price, fee]
    assert await listed_ids(service, OPERATOR_CALLER, group_id=group) == [saved, price, fee]
    # Others see their own legs, and of a refused one nothing.
    assert await listed_ids(service, BOB, group_id=group) == [price]
    assert await listed_ids(service, group_id=refused_group) == [refused]
    assert await listed_ids(service, BOB, group_id=refused_group) == []
    assert await listed_ids(service, group_id=new_id()) == []
    assert await listed_ids(service, account_id=savings, group_id=group) == [saved]
    assert await listed_ids(service, account_id=alices, type="transfer", group_id=group) == [saved, price, fee]
    assert await listed_ids(service, account_id=alices, reference="price", group_id=group) == [price]
    assert await listed_ids(service, start=NOON + timedelta(seconds=60), group_id=group) == [saved, price]
    pages = [
        await service.transactions(ALICE, TransactionFilter("alice", group_id=group), last, 2) for last in (None, price)
    ]
    assert [[item["id"] for item in page.items] for page in pages] == [[saved, price], [fee]]
    assert (await service.transaction(BOB, price))["group_id"] == group
    assert "group_id" not in await service.transaction(ALICE, single)


async def test_data_of_other_owners_is_not_found(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger
):
    bobs = ledger.open("bob")
    paid = ledger.deposit(bobs, 10)
    await ingestion.apply(ledger.events, [])
    for transaction in (paid, new_id()):
        with pytest.raises(Problem, match="not-found"):
            await service.transaction(ALICE, transaction)
    for account in (bobs, ledger.cash, new_id()):
        with pytest.raises(Problem, match="not-found"):
            await service.statement(ALICE, account, None, None)
    assert (await service.statement(OPERATOR_CALLER, bobs, NOON, NOON + timedelta(days=1))).closing.balance == 10


async def test_statements_of_adjoining_periods_neither_overlap_nor_miss_entries(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger
):
    alices = ledger.open()
    for amount in (100, 200, 300):
        ledger.deposit(alices, amount, f"salary {amount}")
        ledger.later(60)
    ledger.later(-61)  # the clock of another replica
    ledger.withdraw(alices, 50)
    await ingestion.apply(ledger.events, [])
    times = [NOON - timedelta(days=1), NOON + timedelta(seconds=60), NOON + timedelta(seconds=120), ledger.now]
    times[-1] += timedelta(days=1)

    found = [await service.statement(ALICE, alices, *between) for between in zip(times, times[1:])]
    assert [line.seq for statement in found for line in statement.lines] == [1, 2, 3, 4]
    assert [statement.opening.balance for statement in found] == [0, 100, 550]
    assert [statement.closing.balance for statement in found] == [100, 550, 550]
    assert [line.reference for line in found[0].lines] == ["salary 100"]


async def test_types_of_later_releases_are_shown(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger
):
    account = ledger.open()
    returned = ledger.move(ledger.cash, account, 5, "return")
    await ingestion.apply(ledger.events, [])
    listing = await service.transactions(ALICE, TransactionFilter("alice"), None, 50)
    assert [(item["id"], item["type"]) for item in listing.items] == [(returned, "return")]
