"""Holds over HTTP and in storage: lists, several captures, extensions, and who changed them."""

import asyncio
import json
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.queries import Queries
from app.domain.commands import CaptureHold, ExtendHold, PlaceHold, ReleaseHold, SetStatus
from app.jobs import release_expired_holds
from app.models import holds, idempotency_keys
from app.service import AccountService
from app.storage import hold_check
from shared.db.database import write_all, write_transaction
from shared.http import idempotency
from shared.http.idempotency import StoredResponse
from shared.ids import new_id, utc_now
from shared.testing.fixtures import Lab
from tests.support import ALICE, BOB, OPERATOR_CALLER, key_header, ledger_request, open_account
from tests.test_api import assert_problem, create_account


async def place(client: httpx.AsyncClient, account: str, amount: int, **fields: object) -> str:
    """Place a hold and return its id."""
    body = {"amount": amount, "currency": "USD", **fields}
    response = await client.post(f"/api/v1/accounts/{account}/holds", json=body, headers=key_header())
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def capture(client: httpx.AsyncClient, hold: str, **fields: object) -> httpx.Response:
    """Capture a hold."""
    return await client.post(f"/api/v1/holds/{hold}/captures", json=fields, headers=key_header())


async def test_several_captures_of_one_hold(client: httpx.AsyncClient):
    account = await create_account(client, 1000)
    hold = await place(client, account, 100)
    first = (await capture(client, hold, amount=30, final=False)).json()
    assert (first["status"], first["amount"], first["captured_amount"], first["remaining_amount"]) == (
        *("active", 100),
        *(30, 70),
    )
    assert first["transaction"]["amount"] == 30 and first["transaction"]["id"] == first["transaction_id"]
    shown = (await client.get(f"/api/v1/accounts/{account}")).json()
    assert (shown["balance"], shown["held"], shown["available"]) == (970, 70, 900)
    assert_problem(await capture(client, hold, amount=71, final=False), 409, "hold-exceeded")
    last = (await capture(client, hold, amount=50)).json()
    assert (last["status"], last["captured_amount"], last["remaining_amount"]) == ("captured", 80, 0)
    shown = (await client.get(f"/api/v1/accounts/{account}")).json()
    assert (shown["balance"], shown["held"]) == (920, 0)
    assert_problem(await capture(client, hold), 409, "hold-not-active")


async def test_a_hold_says_who_changed_it(client: httpx.AsyncClient, lab: Lab):
    account = await create_account(client, 1000)
    hold = await place(client, account, 100)
    part = (await capture(client, hold, amount=10, final=False)).json()
    operator = {**lab.headers("olga", "bank:operator"), **key_header()}
    extended = await client.post(f"/api/v1/holds/{hold}/extensions", json={"expires_in": 20 * 86400}, headers=operator)
    assert extended.status_code == 201 and extended.json()["expires_at"] > part["expires_at"]
    assert (await client.post(f"/api/v1/holds/{hold}/voids", headers=operator | key_header())).status_code == 201

    shown = (await client.get(f"/api/v1/holds/{hold}")).json()
    assert (shown["status"], shown["captured_amount"], shown["remaining_amount"]) == ("voided", 10, 0)
    assert [
        (change["action"], change["made_by"], change["subject"], change["amount"]) for change in shown["changes"]
    ] == [
        ("void", "operator", None, None),
        ("extend", "operator", None, None),
        ("capture", "owner", "alice", 10),
        ("hold", "owner", "alice", None),
    ]
    assert [change["transaction_id"] for change in shown["changes"]] == [None, None, part["transaction_id"], None]
    by_operator = (await client.get(f"/api/v1/holds/{hold}", headers=operator)).json()
    assert [change["subject"] for change in by_operator["changes"]] == ["olga", "olga", "alice", "alice"]
    assert_problem(await client.get(f"/api/v1/holds/{new_id()}"), 404, "not-found")


async def test_holds_are_listed_by_page_and_status(client: httpx.AsyncClient):
    account, other = await create_account(client, 1000), await create_account(client, 1000)
    ids = [await place(client, account, 10) for _ in range(5)]
    await place(client, other, 10)
    await capture(client, ids[1])
    await capture(client, ids[2], amount=1, final=False)
    url, cursor, listed = f"/api/v1/accounts/{account}/holds", "", []
    while cursor is not None:
        page = (await client.get(url, params={"limit": 2, "cursor": cursor})).json()
        listed += [hold["id"] for hold in page["items"]]
        cursor = page["next_cursor"]
    assert listed == ids[::-1]
    for status, expected in (("active", [ids[4], ids[3], ids[2], ids[0]]), ("captured", [ids[1]]), ("voided", [])):
        page = (await client.get(url, params={"status": status})).json()
        assert [hold["id"] for hold in page["items"]] == expected
    page = (await client.get(url, params={"status": "active"})).json()
    assert [hold["remaining_amount"] for hold in page["items"]] == [10, 10, 9, 10]
    assert_problem(await client.get(url, params={"status": "open"}), 422, "validation-failed")
    assert_problem(await client.get(f"/api/v1/accounts/{new_id()}/holds"), 404, "not-found")


async def test_an_extension_is_bounded(client: httpx.AsyncClient):
    hold = await place(client, await create_account(client, 1000), 10, expires_in=86400)
    url = f"/api/v1/holds/{hold}/extensions"
    for seconds, status, code in ((3600, 422, "expiry-out-of-range"), (366 * 86400, 422, "validation-failed")):
        response = await client.post(url, json={"expires_in": seconds}, headers=key_header())
        assert_problem(response, status, code)
    key = key_header()
    extended = await client.post(url, json={"expires_in": 2 * 86400}, headers=key)
    again = await client.post(url, json={"expires_in": 2 * 86400}, headers=key)
    assert extended.status_code == 201 and again.content == extended.content
    assert again.headers["idempotent-replayed"] == "true"


async def test_closing_names_the_holds_in_the_way(client: httpx.AsyncClient, lab: Lab):
    account = await create_account(client, 1000)
    blocking = [await place(client, account, 1) for _ in range(22)]
    await capture(client, blocking[0])
    url = f"/api/v1/accounts/{account}/close"
    problem = assert_problem(await client.post(url, headers=lab.operator()), 409, "balance-not-zero")
    assert problem["holds"] == blocking[1:21]
    for hold in blocking[1:]:
        await client.post(f"/api/v1/holds/{hold}/voids", headers=key_header())
    problem = assert_problem(await client.post(url, headers=lab.operator()), 409, "balance-not-zero")
    assert "holds" not in problem


async def test_operators_capture_and_void_holds_on_a_frozen_account(client: httpx.AsyncClient, lab: Lab):
    account = await create_account(client, 1000)
    captured, voided = await place(client, account, 10), await place(client, account, 10)
    operator = lab.operator()
    await client.post(f"/api/v1/accounts/{account}/freeze", headers=operator)
    assert_problem(await capture(client, captured), 409, "account-frozen")
    for hold, action in ((captured, "captures"), (voided, "voids")):
        response = await client.post(f"/api/v1/holds/{hold}/{action}", headers={**operator, **key_header()})
        assert response.status_code == 201, response.text
    shown = (await client.get(f"/api/v1/accounts/{account}")).json()
    assert (shown["balance"], shown["held"], shown["status"]) == (990, 0, "frozen")


async def test_a_capture_is_replayed_that_an_earlier_release_has_executed(
    client: httpx.AsyncClient, engine: AsyncEngine
):
    hold = await place(client, await create_account(client, 1000), 10)
    request_hash = idempotency.request_hash(f"/api/v1/holds/{hold}/captures", {"amount": 5})
    stored = StoredResponse("alice", "earlier", request_hash, 201, b"{}", utc_now())
    async with write_transaction(engine) as connection:
        await write_all(connection, [idempotency.write(idempotency_keys, [stored])])
    url = f"/api/v1/holds/{hold}/captures"
    for body, status in (
        ({"amount": 5}, 201),
        ({"amount": 5, "final": None}, 201),
        ({"amount": 5, "final": True}, 422),
    ):
        response = await client.post(url, json=body, headers=key_header("earlier"))
        assert response.status_code == status, response.text
    assert (await client.get(f"/api/v1/holds/{hold}")).json()["status"] == "active"


@pytest.mark.parametrize("part", [60, 20])
async def test_the_previous_release_ends_a_partly_captured_hold(
    service: AccountService, engine: AsyncEngine, queries: Queries, part: int
):
    """It takes `amount` for what is reserved, and writes only these columns."""
    account, hold = await open_account(service, money=100), new_id()
    await service.execute(ledger_request(PlaceHold(hold, account, 100, "USD", utc_now() + timedelta(days=1))))
    await service.execute(ledger_request(CaptureHold(new_id(), hold, 40, final=False)))
    async with engine.connect() as connection:
        row = (await connection.execute(select(holds).where(holds.c.id == hold))).one()
        assert (row.status, row.amount, row.captured_amount) == ("active", 60, 0)
        mismatches, _ = await hold_check.count_mismatches(connection, "")
        assert mismatches == 0
    async with write_transaction(engine) as connection:
        changed = holds.update().where(holds.c.id == hold).values(status="captured", captured_amount=part)
        await connection.execute(changed)
        await connection.execute(text("UPDATE accounts SET held = held - 60 WHERE held = 60"))
    shown = await queries.hold(ALICE, hold)
    assert (shown["status"], shown["amount"], shown["captured_amount"]) == ("captured", 100, 40 + part)
    assert shown["remaining_amount"] == 0


async def test_an_expired_hold_releases_what_is_left(service: AccountService, engine: AsyncEngine, queries: Queries):
    account, hold = await open_account(service, money=100), new_id()
    await service.execute(ledger_request(PlaceHold(hold, account, 100, "USD", utc_now() + timedelta(days=1))))
    await service.execute(ledger_request(CaptureHold(new_id(), hold, 40, final=False)))
    async with write_transaction(engine) as connection:
        await connection.execute(holds.update().values(expires_at=utc_now() - timedelta(seconds=1)))
    assert await release_expired_holds(engine, service) == 1
    shown = await queries.hold(ALICE, hold)
    assert (shown["status"], shown["captured_amount"], shown["changes"][0]["made_by"]) == ("expired", 40, "bank")
    assert (await queries.account(ALICE, account))["available"] == 60


async def test_an_extended_hold_expires_later(service: AccountService, engine: AsyncEngine):
    account, hold = await open_account(service, money=100), new_id()
    soon = utc_now() + timedelta(seconds=60)
    await service.execute(ledger_request(PlaceHold(hold, account, 100, "USD", soon)))
    await service.execute(ledger_request(ExtendHold(hold, soon + timedelta(days=1))))
    async with engine.connect() as connection:
        row = (await connection.execute(select(holds.c.expires_at, holds.c.placed_amount))).one()
    assert (row.expires_at, row.placed_amount) == (soon + timedelta(days=1), None)


async def test_concurrent_captures_never_exceed_the_hold(service: AccountService, queries: Queries):
    account, hold = await open_account(service, money=100), new_id()
    await service.execute(ledger_request(PlaceHold(hold, account, 50, "USD", utc_now() + timedelta(days=1))))
    requests = [ledger_request(CaptureHold(new_id(), hold, 10, final=False)) for _ in range(8)]
    requests.append(ledger_request(SetStatus(account, "closed"), OPERATOR_CALLER, None))
    responses = await asyncio.gather(*(service.execute(request) for request in requests))
    assert sorted(response.status for response in responses) == [201] * 5 + [409] * 4
    assert {json.loads(response.body)["code"] for response in responses if response.status == 409} == {
        "hold-not-active",
        "balance-not-zero",
    }
    shown = await queries.hold(ALICE, hold)
    assert (shown["status"], shown["captured_amount"]) == ("captured", 50)
    assert (await queries.account(ALICE, account))["balance"] == 50


async def test_strangers_see_no_holds(service: AccountService, queries: Queries):
    account, hold = await open_account(service, money=100), new_id()
    await service.execute(ledger_request(PlaceHold(hold, account, 50, "USD", utc_now() + timedelta(days=1))))
    for command in (ExtendHold(hold, utc_now() + timedelta(days=2)), ReleaseHold(hold, "voided")):
        response = await service.execute(ledger_request(command, BOB))
        assert json.loads(response.body)["code"] == "not-found"
    assert (await queries.hold(OPERATOR_CALLER, hold))["status"] == "active"
