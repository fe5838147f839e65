"""Webhooks over HTTP: subscribe, list, change, delete."""

from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application.ingestion import EventIngestion
from app.main import create
from app.settings import TransactionSettings
from app.webhooks import MAX_PER_OWNER
from shared.ids import new_id
from shared.testing.fixtures import Lab
from tests.support import Ledger
from tests.test_api import assert_problem

PATH = "/api/v1/webhooks"
URL = "https://alice.example/events"


async def create_webhook(
    client: httpx.AsyncClient, key: str = "one", headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    return await client.post(PATH, json={"url": URL, **body}, headers={**(headers or {}), "Idempotency-Key": key})


async def test_a_webhook_is_created_once_per_key(client: httpx.AsyncClient, lab: Lab):
    answer = await create_webhook(client)
    assert answer.status_code == 201
    webhook = answer.json()
    assert webhook == {
        **{"id": webhook["id"], "owner": "alice", "url": URL, "account_id": None, "types": None, "enabled": True},
        **{"disabled_reason": None, "position": 0, "failures": 0, "failing_since": None, "next_attempt_at": None},
        **{"secret_version": 1, "created_at": webhook["created_at"], "secret": webhook["secret"]},
    }
    assert (await create_webhook(client)).json() == webhook
    assert_problem(await create_webhook(client, url=URL + "2"), 422, "idempotency-key-reused")
    assert (await create_webhook(client, headers=lab.headers("bob"))).json()["id"] != webhook["id"]
    assert_problem(await client.post(PATH, json={"url": URL}), 400, "idempotency-key-missing")
    del webhook["secret"]
    assert (await client.get(f"{PATH}/{webhook['id']}")).json() == webhook
    assert (await client.get(PATH)).json() == {"items": [webhook], "next_cursor": None}


async def test_a_customer_subscribes_to_own_accounts_and_an_operator_to_any(
    client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger, lab: Lab
):
    alices, bobs = ledger.open(), ledger.open("bob")
    await ingestion.apply(ledger.events, [])
    assert (await create_webhook(client, "1", account_id=alices.upper())).json()["account_id"] == alices
    for foreign in (bobs, new_id()):
        assert_problem(await create_webhook(client, "2", account_id=foreign), 404, "not-found")
    created = await create_webhook(client, "3", lab.operator(), account_id=bobs, types=["bank.entry.posted"])
    assert (created.status_code, created.json()["types"]) == (201, ["bank.entry.posted"])


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": "http://alice.example/"}, "/url"),
        ({"url": "https://127.0.0.1/"}, "/url"),
        ({"url": "https://[::ffff:10.0.0.1]/"}, "/url"),
        ({"url": "https://alice.example:22/"}, "/url"),
        ({"url": ""}, "/url"),
        ({"types": []}, "/types"),
        ({"types": ["bank.transaction.flagged"]}, "/types/0"),
        ({"types": ["bank.entry.posted\n"]}, "/types/0"),
        ({"account_id": "x"}, "/account_id"),
        ({"secret": "mine"}, "/secret"),
    ],
)
async def test_an_invalid_webhook_is_rejected(client: httpx.AsyncClient, body: dict[str, Any], pointer: str):
    assert_problem(await create_webhook(client, **body), 422, "validation-failed", pointer)


async def test_webhooks_are_changed_and_deleted(client: httpx.AsyncClient, lab: Lab):
    webhook = (await create_webhook(client)).json()
    path = f"{PATH}/{webhook['id']}"
    changed = await client.patch(path, json={"url": URL + "2", "types": ["bank.hold.placed"], "enabled": False})
    assert changed.status_code == 200
    assert changed.json() == {
        **webhook,
        **{"url": URL + "2", "types": ["bank.hold.placed"], "enabled": False},
        "disabled_reason": "disabled by a client",
    }
    assert (await client.patch(path, json={})).json() == changed.json()
    # An operator sees everything but the secret.
    by_operator = (await client.patch(path, json={"enabled": True}, headers=lab.operator())).json()
    assert by_operator["enabled"] and "secret" not in by_operator
    assert_problem(await client.patch(path, json={"url": "https://10.0.0.1/"}), 422, "validation-failed", "/url")
    assert_problem(await client.patch(path, json={"position": 1}), 422, "validation-failed", "/position")
    assert_problem(await client.patch(path, json={"secret_version": 3}), 422, "validation-failed", "/secret_version")
    assert (await client.get(f"{path}/deliveries")).json() == {"items": [], "next_cursor": None}
    deleted = await client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for method in ("get", "delete"):
        assert_problem(await getattr(client, method)(path), 404, "not-found")


async def test_lists_are_paged_and_the_number_is_limited(client: httpx.AsyncClient, lab: Lab):
    made = {(await create_webhook(client, str(n))).json()["id"] for n in range(MAX_PER_OWNER)}
    assert len(made) == MAX_PER_OWNER
    assert_problem(await create_webhook(client, "more"), 409, "webhook-limit")
    assert (await create_webhook(client, "0")).status_code == 201, "it exists"
    await create_webhook(client, "more", lab.headers("bob"))
    found, cursor = [], ""
    while cursor is not None:
        page = (await client.get(PATH, params={"limit": 7, "cursor": cursor})).json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert found == sorted(made)
    assert len((await client.get(PATH, headers=lab.operator())).json()["items"]) == MAX_PER_OWNER + 1


async def test_without_a_key_every_request_says_so(engine: AsyncEngine, settings: TransactionSettings, lab: Lab):
    del engine  # creates the tables
    application = create(TransactionSettings(**{**settings.model_dump(), "webhook_key": ""}))
    to = httpx.ASGITransport(app=application)
    async with application.app.router.lifespan_context(application.app):
        async with httpx.AsyncClient(transport=to, base_url="http://bank", headers=lab.headers("alice")) as client:
            assert_problem(await create_webhook(client), 409, "webhooks-disabled")
            for method, path in (("GET", ""), ("GET", f"/{new_id()}"), ("DELETE", f"/{new_id()}")):
                assert_problem(await client.request(method, PATH + path), 409, "webhooks-disabled")
            for path in (f"/{new_id()}/deliveries",):
                assert_problem(await client.get(PATH + path), 409, "webhooks-disabled")
            assert_problem(await client.patch(f"{PATH}/{new_id()}", json={}), 409, "webhooks-disabled")
