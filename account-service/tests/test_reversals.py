"""Reversals of a part of a transaction, over HTTP."""

import httpx

from shared.testing.fixtures import Lab
from tests.support import key_header
from tests.test_api import assert_problem, create_account


async def test_a_transaction_is_reversed_in_parts(client: httpx.AsyncClient, lab: Lab):
    alices, bobs = await create_account(client, 1000), await create_account(client, headers=lab.headers("bob"))
    body = {"from_account": alices, "to_account": bobs, "amount": 250, "currency": "USD"}
    paid = (await client.post("/api/v1/transfers", json=body, headers=key_header())).json()

    async def reverse(**fields: object) -> httpx.Response:
        content = {"transaction_id": paid["id"], **fields}
        return await client.post("/api/v1/reversals", json=content, headers={**lab.headers("bob"), **key_header()})

    first = (await reverse(amount=100, reason="one of two")).json()
    assert (first["amount"], first["type"], first["reverses"]) == (100, "reversal", paid["id"])
    problem = assert_problem(await reverse(amount=151), 409, "reversal-exceeded")
    assert problem["detail"] == "Left to reverse: 1.50 USD, requested 1.51 USD; reverse less."
    assert (await reverse()).json()["amount"] == 150
    assert_problem(await reverse(amount=1), 409, "already-reversed")
    assert_problem(await reverse(amount=0), 422, "validation-failed")
    assert (await client.get(f"/api/v1/accounts/{alices}")).json()["balance"] == 1000
