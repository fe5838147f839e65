"""Metadata of accounts and transactions, over HTTP."""

import httpx
import orjson
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.models import outbox, transactions
from shared.testing.fixtures import Lab
from tests.support import key_header
from tests.test_api import assert_problem, create_account

METADATA = {"invoice": "2026-11: no. 7", "Cost-centre.1_a": '\u00fc "quoted"'}


async def test_every_movement_carries_its_metadata(client: httpx.AsyncClient, lab: Lab, engine: AsyncEngine):
    async def post(path: str, headers: dict[str, str] | None = None, **body: object) -> dict:
        content = {"metadata": METADATA, **body}
        response = await client.post(f"/api/v1/{path}", json=content, headers={**key_header(), **(headers or {})})
        assert response.status_code == 201, response.text
        return response.json()

    money = {"amount": 10, "currency": "USD"}
    account = await post("accounts", currency="USD")
    assert account["metadata"] == METADATA
    assert (await client.get(f"/api/v1/accounts/{account['id']}")).json() == account
    path, other = f"accounts/{account['id']}", await create_account(client)
    deposit = await post(f"{path}/deposits", lab.operator(), **money)
    posted = [
        deposit,
        await post("transfers", from_account=account["id"], to_account=other, amount=1, currency="USD"),
        await post(f"{path}/withdrawals", amount=1, currency="USD"),
        await post("reversals", lab.operator(), transaction_id=deposit["id"], amount=1),
    ]
    held = await client.post(f"/api/v1/{path}/holds", json={**money, "amount": 2}, headers=key_header())
    posted.append((await post(f"holds/{held.json()['id']}/captures"))["transaction"])
    assert [transaction["metadata"] for transaction in posted] == [METADATA] * 5
    refused = {**money, "amount": 1000, "metadata": METADATA}
    assert_problem(
        await client.post(f"/api/v1/{path}/withdrawals", json=refused, headers=key_header()), 409, "insufficient-funds"
    )
    async with engine.connect() as connection:
        rows = (await connection.scalars(select(outbox.rows.c.events))).all()
        stored = (await connection.scalars(select(transactions.c.metadata))).all()
    data = [event["data"] for row in rows for event in orjson.loads(row)]
    assert sum(event.get("metadata") == METADATA for event in data) == 1 + 2 * 5 + 1
    assert all(event["metadata"] == METADATA for event in data if "metadata" in event)
    assert stored == [orjson.dumps(METADATA, option=orjson.OPT_SORT_KEYS).decode()] * 5


async def test_without_metadata_there_is_none(client: httpx.AsyncClient, lab: Lab, engine: AsyncEngine):
    account = await create_account(client)
    key = key_header()
    for body in ({}, {"metadata": None}):
        # The same request as in releases without metadata.
        content = {"amount": 10, "currency": "USD", **body}
        answer = await client.post(
            f"/api/v1/accounts/{account}/deposits", json=content, headers={**lab.operator(), **key}
        )
        assert answer.status_code == 201 and "metadata" not in answer.json(), answer.text
    assert answer.headers["idempotent-replayed"] == "true"
    other = {**content, "metadata": {"a": "b"}}
    answer = await client.post(f"/api/v1/accounts/{account}/deposits", json=other, headers={**lab.operator(), **key})
    assert_problem(answer, 422, "idempotency-key-reused")
    assert "metadata" not in (await client.get(f"/api/v1/accounts/{account}")).json()
    async with engine.connect() as connection:
        assert (await connection.scalars(select(transactions.c.metadata))).all() == [None]


@pytest.mark.parametrize(
    "metadata",
    [
        {"": "a"},
        {"a b": "c"},
        {"a" * 41: "b"},
        {"a": ""},
        {"a": "b" * 501},
        {"a": 1},
        {"a": {"b": "c"}},
        {"a": "line\nbreak"},
        {str(number): "a" for number in range(21)},
        ["a"],
    ],
)
async def test_metadata_is_bounded(client: httpx.AsyncClient, metadata: object):
    body = {"currency": "USD", "metadata": metadata}
    assert_problem(await client.post("/api/v1/accounts", json=body, headers=key_header()), 422, "validation-failed")


async def test_the_largest_metadata_are_accepted(client: httpx.AsyncClient):
    metadata = {f"{number:040}": '{":,[' * 100 for number in range(20)}
    body = {"currency": "USD", "metadata": metadata}
    response = await client.post("/api/v1/accounts", json=body, headers=key_header())
    assert response.status_code == 201 and response.json()["metadata"] == metadata


async def test_a_repeated_name_is_rejected(client: httpx.AsyncClient):
    content = '{"currency": "USD", "metadata": {"a": "b", "a": "c"}}'
    assert_problem(
        await client.post("/api/v1/accounts", content=content, headers=key_header()), 400, "malformed-request"
    )
