"""Disclosure: a caller who knows the id of another owner's account learns only what docs/adr/0014 documents."""

import json
import uuid
from typing import Any

import httpx

from shared.testing.fixtures import Lab
from tests.support import key_header
from tests.test_api import create_account


class Stranger:
    """Mallory, who has money in two currencies and knows ids of alice's accounts."""

    def __init__(self, client: httpx.AsyncClient, lab: Lab) -> None:
        self._client = client
        self._lab = lab
        self.own: dict[str, str] = {}

    async def prepare(self) -> None:
        """Open an account with money in each currency."""
        for currency in ("USD", "EUR"):
            self.own[currency] = (await self.post("accounts", {"currency": currency})).json()["id"]
            await self.post(f"accounts/{self.own[currency]}/deposits", {"amount": 1000, "currency": currency})

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Post as mallory."""
        return await self._client.post(
            f"/api/v1/{path}", json=body, headers={**self._lab.headers("mallory"), **key_header()}
        )

    async def pay(self, account: str, currency: str = "USD") -> httpx.Response:
        """Transfer the minimum amount to an account."""
        body = {"from_account": self.own[currency], "to_account": account, "amount": 1, "currency": currency}
        return await self.post("transfers", body)

    async def probe(self, account: str) -> list[tuple[int, str]]:
        """Return status, code and detail of every request about an account other than a transfer to it."""
        money = {"amount": 1, "currency": "USD"}
        responses = [await self.post(f"accounts/{account}/{action}", money) for action in ("withdrawals", "holds")]
        responses.append(await self.post(f"accounts/{account}/deposits", money))
        responses.append(
            await self.post("transfers", {"from_account": account, "to_account": self.own["USD"], **money})
        )
        responses += [await self.post(f"accounts/{account}/{one}", {}) for one in ("freeze", "unfreeze", "close")]
        headers = self._lab.headers("mallory")
        responses.append(await self._client.get(f"/api/v1/accounts/{account}", headers=headers))
        return [(response.status_code, response.json()["code"] + response.json()["detail"]) for response in responses]


async def test_a_payment_discloses_only_what_is_documented(client: httpx.AsyncClient, lab: Lab):
    stranger, operator = Stranger(client, lab), lab.operator()
    await stranger.prepare()
    rich, frozen, closed, empty = (
        await create_account(client, 777_777),
        await create_account(client, 1),
        await create_account(client),
        "",
    )
    for account, action in ((frozen, "freeze"), (closed, "close")):
        done = await client.post(f"/api/v1/accounts/{account}/{action}", headers=operator)
        assert done.status_code == 200
    empty = await create_account(client)
    unknown = str(uuid.uuid4())

    paid = {name: await stranger.pay(account) for name, account in (("rich", rich), ("frozen", frozen), ("", empty))}
    assert {response.status_code for response in paid.values()} == {201}
    for response in paid.values():
        transaction = response.json()
        (theirs,) = [entry for entry in transaction["entries"] if entry["account_id"] != stranger.own["USD"]]
        assert theirs["seq"] is None and theirs["balance_after"] is None
        assert not {"owner", "name", "account_number", "held"} & transaction.keys()
        assert "777" not in json.dumps(
            {**transaction, "id": "", "entries": [], "to_account": "", "from_account": "", "created_at": ""}
        )
    refused = {
        name: (response.status_code, response.json()["code"])
        for name, response in {
            "unknown": await stranger.pay(unknown),
            "closed": await stranger.pay(closed),
            "currency": await stranger.pay(rich, "EUR"),
        }.items()
    }
    assert refused == {
        "unknown": (404, "not-found"),
        "closed": (409, "account-closed"),
        "currency": (422, "currency-mismatch"),
    }


async def test_no_other_request_discloses_whether_an_account_exists(client: httpx.AsyncClient, lab: Lab):
    stranger = Stranger(client, lab)
    await stranger.prepare()
    frozen = await create_account(client, 5)
    await client.post(f"/api/v1/accounts/{frozen}/freeze", headers=lab.operator())
    responses = [
        await stranger.probe(account) for account in (str(uuid.uuid4()), await create_account(client, 9), frozen)
    ]
    assert responses[0] == responses[1] == responses[2]
