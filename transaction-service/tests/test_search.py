"""The search in the transactions of an account, on both databases."""

import httpx
import pytest

from app.application.ingestion import EventIngestion
from app.service import TransactionService
from app.storage import search
from app.storage.queries import TransactionFilter
from shared.http.problems import Problem
from tests.support import ALICE, BOB, OPERATOR_CALLER, Ledger, listed_ids


async def test_transactions_of_an_account_are_searched(
    ingestion: EventIngestion, service: TransactionService, ledger: Ledger
):
    alices, bobs = ledger.open(), ledger.open("bob")
    deposit = ledger.deposit(alices, 100, "salary")
    small = ledger.move(alices, bobs, 10, reference="rent")
    large = ledger.move(alices, bobs, 60, reference="Rent")
    refused = ledger.refuse(alices, bobs, 500, direction="debit")
    await ingestion.apply(ledger.events, [])

    async def found(**wanted: object) -> list[str]:
        return await listed_ids(service, account_id=alices, **wanted)

    assert await found(reference="rent") == [small]
    assert await found(counterparty=bobs) == [refused, large, small]
    assert await found(counterparty=ledger.cash) == [deposit]
    assert await found(min_amount=60) == [refused, large, deposit]
    assert await found(min_amount=10, max_amount=60) == [large, small]
    assert await found(max_amount=10, reference="Rent") == []
    assert await found(code="insufficient-funds") == [refused]
    assert await found(code="account-frozen") == []
    assert await found(type="deposit") == [deposit]
    assert await listed_ids(service, OPERATOR_CALLER, account_id=bobs, reference="rent") == [small]
    with pytest.raises(Problem, match="not-found"):
        await listed_ids(service, BOB, account_id=alices, reference="rent")
    with pytest.raises(Problem, match="needs an account"):
        await listed_ids(service, reference="rent")
    with pytest.raises(Problem, match="No amount is in the range"):
        await found(min_amount=2, max_amount=1)


async def test_metadata_are_shown_and_searched(ingestion: EventIngestion, service: TransactionService, ledger: Ledger):
    alices, bobs = ledger.open(), ledger.open("bob")
    metadata = {"order": "7", "note": 'say "order":"8" {ü}'}
    one = ledger.move(alices, bobs, 1, metadata=metadata)
    other = ledger.move(alices, bobs, 1, metadata={"order": "77"})
    plain = ledger.move(alices, bobs, 1)
    await ingestion.apply(ledger.events, [])

    async def found(key: str, value: str | None = None) -> list[str]:
        return await listed_ids(service, account_id=alices, metadata_key=key, metadata_value=value)

    assert await found("order") == [other, one]
    assert await found("order", "7") == [one]
    assert await found("order", "8") == []
    assert await found("rder", "7") == []
    assert await found("Order", "7") == []
    assert await found("note", metadata["note"]) == [one]
    assert (await service.transaction(ALICE, one))["metadata"] == metadata
    assert "metadata" not in await service.transaction(ALICE, plain)
    with pytest.raises(Problem, match="needs its key"):
        await listed_ids(service, account_id=alices, metadata_value="7")


async def test_a_rare_match_is_found_page_by_page(
    ingestion: EventIngestion,
    service: TransactionService,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(search, "MAX_ENTRIES", 4)
    account = ledger.open()
    ids = [ledger.deposit(account, 100, "rare" if number in (1, 7) else "frequent") for number in range(10)]
    await ingestion.apply(ledger.events, [])
    wanted = TransactionFilter("alice", account, reference="rare")
    pages, cursor = [], None
    for _ in range(4):
        listing = await service.transactions(ALICE, wanted, cursor, 3)
        pages.append(([item["id"] for item in listing.items], cursor := listing.continue_after))
        if cursor is None:
            break
    assert pages == [([ids[7]], ids[6]), ([], ids[2]), ([ids[1]], None)]
    # Without a search a page reads on.
    assert (await service.transactions(ALICE, TransactionFilter("alice", account), None, 3)).continue_after is None
    frequent = TransactionFilter("alice", account, reference="frequent")
    full = await service.transactions(ALICE, frequent, None, 3)
    assert ([item["id"] for item in full.items], full.continue_after) == ([ids[9], ids[8], ids[6]], None)


@pytest.mark.parametrize(
    "query", ["code=Nothing!", "min_amount=-1", "max_amount=1.5", "reference=", "metadata_key=a%20b"]
)
async def test_searched_values_are_validated(client: httpx.AsyncClient, query: str):
    response = await client.get(f"/api/v1/transactions?{query}")
    assert response.status_code == 422 and response.json()["code"] == "validation-failed"
