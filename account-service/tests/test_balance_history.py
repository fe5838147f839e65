"""Balances at a time and after a transaction, over HTTP and in storage."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application import batches
from app.application.queries import Queries
from app.domain.commands import Deposit
from app.models import accounts, entries, transactions
from app.service import AccountService
from app.storage import balance_history, repository
from shared.ids import new_id, rfc3339, utc_now
from shared.testing.fixtures import Lab
from tests.support import ALICE, OPERATOR_CALLER, key_header, ledger_request, open_account, transfer
from tests.test_api import assert_problem, create_account

ONE_MICROSECOND = timedelta(microseconds=1)


async def read(client: httpx.AsyncClient, account: str, **query: str) -> httpx.Response:
    """Get a balance."""
    return await client.get(f"/api/v1/accounts/{account}/balance", params=query)


async def test_the_balance_at_a_time_and_after_a_transaction(client: httpx.AsyncClient):
    account = await create_account(client)
    empty = (await read(client, account)).json()
    assert empty == {
        **{"account_id": account, "currency": "USD", "balance": 0, "seq": 0},
        **{"transaction_id": None, "posted_at": None},
    }
    posted, total = [], 0
    for amount in (5, 7, 11):
        body = {"amount": amount, "currency": "USD"}
        deposit = await client.post(f"/api/v1/accounts/{account}/deposits", json=body, headers=key_header())
        total += amount
        posted.append((deposit.json()["id"], deposit.json()["created_at"], total))
    for seq, (id_, created_at, balance) in enumerate(posted, 1):
        expected = {
            **{"account_id": account, "currency": "USD", "balance": balance, "seq": seq},
            **{"transaction_id": id_, "posted_at": created_at},
        }
        assert (await read(client, account, at=created_at)).json() == expected
        assert (await read(client, account, as_of_transaction=id_.upper())).json() == expected
        before = datetime.fromisoformat(created_at) - ONE_MICROSECOND
        assert (await read(client, account, at=rfc3339(before))).json()["seq"] == seq - 1
    assert (await read(client, account)).json()["balance"] == total


async def test_errors(client: httpx.AsyncClient, lab: Lab):
    account, other = await create_account(client, 10), await create_account(client, 10)
    opened = datetime.fromisoformat((await client.get(f"/api/v1/accounts/{account}")).json()["created_at"])
    elsewhere = (await read(client, other)).json()["transaction_id"]
    now = rfc3339(utc_now())
    for query, status, code, detail in (
        ({"at": rfc3339(utc_now() + timedelta(hours=1))}, 422, "validation-failed", "in the future"),
        ({"at": rfc3339(opened - ONE_MICROSECOND)}, 422, "validation-failed", "before the account was opened"),
        ({"at": "2026-11-01"}, 422, "validation-failed", "Invalid request"),
        ({"at": now, "as_of_transaction": elsewhere}, 422, "validation-failed", "either"),
        ({"as_of_transaction": new_id()}, 404, "not-found", "no entry of this transaction"),
        ({"as_of_transaction": elsewhere}, 404, "not-found", "no entry of this transaction"),
        ({"as_of_transaction": "x"}, 422, "validation-failed", "Invalid request"),
    ):
        assert detail in assert_problem(await read(client, account, **query), status, code)["detail"], query
    assert (await read(client, account, at=rfc3339(opened))).json()["balance"] == 0
    stranger = await client.get(f"/api/v1/accounts/{account}/balance", headers=lab.headers("bob"))
    assert_problem(stranger, 404, "not-found")


async def history(engine: AsyncEngine, account: str) -> list[Any]:
    """Return time and balance after each entry of an account, in order."""
    statement = select(transactions.c.created_at, entries.c.balance_after, entries.c.transaction_id)
    of_account = entries.join(transactions, transactions.c.id == entries.c.transaction_id)
    statement = statement.select_from(of_account).where(entries.c.account_id == account).order_by(entries.c.seq)
    async with engine.connect() as connection:
        return list((await connection.execute(statement)).all())


async def test_it_agrees_with_the_entries_of_a_batch(service: AccountService, engine: AsyncEngine, queries: Queries):
    """Entries of one flush have the same time."""
    account, other = await open_account(service, money=100), await open_account(service)
    for _ in range(3):
        transfers = (ledger_request(transfer(account, other, 3)) for _ in range(5))
        await asyncio.gather(*(service.execute(request) for request in transfers))
    posted = await history(engine, account)
    for time in {row.created_at for row in posted}:
        expected = [row.balance_after for row in posted if row.created_at <= time][-1]
        assert (await queries.balance(ALICE, account, time, None))["balance"] == expected
    for row in posted:
        shown = await queries.balance(ALICE, account, None, row.transaction_id)
        assert (shown["balance"], shown["posted_at"]) == (row.balance_after, rfc3339(row.created_at))


@pytest.mark.parametrize(("behind", "same"), [(5, True), (3600, False)])
async def test_times_of_an_accounts_entries_do_not_decrease(
    service: AccountService, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, behind: int, same: bool
):
    """A replica whose clock is a little behind, or that has waited for a lock; it does not follow a wrong clock."""
    account = await open_account(service)
    times = iter([utc_now() + timedelta(seconds=1), utc_now() - timedelta(seconds=behind)])
    monkeypatch.setattr(batches, "utc_now", lambda: next(times))
    for _ in range(2):
        deposit = Deposit(new_id(), account, 1, "USD", None)
        assert (await service.execute(ledger_request(deposit, OPERATOR_CALLER))).status == 201
    first, second = (row.created_at for row in await history(engine, account))
    assert (first == second, first > second) == (same, not same)


async def test_entries_in_another_order_than_their_times_are_found(
    service: AccountService, engine: AsyncEngine, queries: Queries, monkeypatch: pytest.MonkeyPatch
):
    """Earlier releases did not order them."""
    account, start = await open_account(service), utc_now()
    times = iter([start + timedelta(hours=hours) for hours in (0, 3, 1, 4, 2)])
    monkeypatch.setattr(batches, "utc_now", lambda: next(times))
    for _ in range(5):
        deposit = Deposit(new_id(), account, 1, "USD", None)
        assert (await service.execute(ledger_request(deposit, OPERATOR_CALLER))).status == 201
    for seq, row in enumerate(await history(engine, account), 1):
        assert (await queries.balance(ALICE, account, None, row.transaction_id))["seq"] == seq


async def test_a_balance_is_found_by_primary_keys_alone(owner: AsyncEngine, engine: AsyncEngine):
    """Twenty lookups for a million entries, however the tables grow."""
    entry_count, account_id = 5000, new_id()
    start = datetime(2026, 1, 1, tzinfo=UTC)
    ids = [new_id() for _ in range(entry_count)]
    other = new_id()
    row = {"owner": "alice", "name": None, "kind": "customer", "currency": "USD", "status": "active", "held": 0}
    times = {"created_at": start, "updated_at": start}
    async with owner.begin() as connection:
        if owner.dialect.name == "postgresql":
            await connection.execute(text("ALTER TABLE entries DISABLE TRIGGER check_entries"))
        for id_ in (account_id, other):
            values = {"id": id_, "account_number": id_[-16:], "balance": entry_count, "seq": entry_count}
            await connection.execute(accounts.insert().values(**row, **times, **values))
        transfer_row = {"type": "transfer", "amount": 1, "currency": "USD"}
        await connection.execute(
            transactions.insert(),
            [
                {
                    "id": id_,
                    "created_at": start + timedelta(seconds=seq),
                    "from_account": other,
                    "to_account": account_id,
                }
                | transfer_row
                for seq, id_ in enumerate(ids, 1)
            ],
        )
        await connection.execute(
            entries.insert(),
            [
                {"account_id": account_id, "seq": seq, "transaction_id": id_, "amount": 1, "balance_after": seq}
                for seq, id_ in enumerate(ids, 1)
            ],
        )
        await connection.execute(text("ANALYZE"))
        account = await repository.find_account(connection, account_id)
        assert account is not None
        for seq in (0, 1, 2, 777, 4999, 5000, 6000):
            balance = await balance_history.at_time(connection, account, start + timedelta(seconds=seq))
            assert balance.seq == balance.balance == min(seq, entry_count)
        after = await balance_history.after_transaction(connection, account, ids[1233])
        assert after is not None and (after.seq, after.balance) == (1234, 1234)
        statement = balance_history.select_last_seq(
            account, transactions.c.created_at <= literal_column("CURRENT_TIMESTAMP")
        )
        sql = str(statement.compile(owner.sync_engine, compile_kwargs={"literal_binds": True}))
        explain = "EXPLAIN" if owner.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        plan = "\n".join(str(tuple(line)) for line in await connection.execute(text(f"{explain} {sql}")))
    whole_tables = ("Seq Scan on entries", "Seq Scan on transactions", "SCAN entries", "SCAN transactions")
    assert not any(scan in plan for scan in whole_tables), plan
    assert "entries" in plan and "transactions" in plan
