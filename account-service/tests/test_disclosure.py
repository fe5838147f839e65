"""What a stranger who knows an account's id can learn of it is what docs/adr/0014 says, and no more."""

import json
import uuid
from typing import Any

import httpx

from shared.testing.fixtures import Lab
from tests.support import keyed
from tests.test_api import opened


class Stranger:
    """Mallory, who has money in two currencies and knows ids of alice's."""

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
            f"/api/v1/{path}", json=body, headers={**self._lab.headers("mallory"), **keyed()}
        )

    async def pay(self, account: str, currency: str = "USD") -> httpx.Response:
        """Try to pay the smallest amount to an account."""
        body = {"from_account": self.own[currency], "to_account": account, "amount": 1, "currency": currency}
        return await self.post("transfers", body)

    async def everything(self, account: str) -> list[tuple[int, str]]:
        """Return status and code, or all that is shown, of every request about an account but a payment to it."""
        money = {"amount": 1, "currency": "USD"}
        answers = [await self.post(f"accounts/{account}/{action}", money) for action in ("withdrawals", "holds")]
        answers.append(await self.post(f"accounts/{account}/deposits", money))
        answers.append(await self.post("transfers", {"from_account": account, "to_account": self.own["USD"], **money}))
        answers += [await self.post(f"accounts/{account}/{one}", {}) for one in ("freeze", "unfreeze", "close")]
        headers = self._lab.headers("mallory")
        answers.append(await self._client.get(f"/api/v1/accounts/{account}", headers=headers))
        return [(answer.status_code, answer.json()["code"] + answer.json()["detail"]) for answer in answers]


async def test_a_payer_learns_what_is_documented_and_nothing_more(client: httpx.AsyncClient, lab: Lab):
    stranger, operator = Stranger(client, lab), lab.operator()
    await stranger.prepare()
    rich, frozen, closed, empty = await opened(client, 777_777), await opened(client, 1), await opened(client), ""
    for account, action in ((frozen, "freeze"), (closed, "close")):
        done = await client.post(f"/api/v1/accounts/{account}/{action}", headers=operator)
        assert done.status_code == 200
    empty = await opened(client)
    unknown = str(uuid.uuid4())

    paid = {name: await stranger.pay(account) for name, account in (("rich", rich), ("frozen", frozen), ("", empty))}
    assert {answer.status_code for answer in paid.values()} == {201}
    for answer in paid.values():
        transaction = answer.json()
        (theirs,) = [entry for entry in transaction["entries"] if entry["account_id"] != stranger.own["USD"]]
        assert theirs["seq"] is None and theirs["balance_after"] is None
        assert not {"owner", "name", "account_number", "held"} & transaction.keys()
        assert "777" not in json.dumps(
            {**transaction, "id": "", "entries": [], "to_account": "", "from_account": "", "created_at": ""}
        )
    refused = {
        name: (answer.status_code, answer.json()["code"])
        for name, answer in {
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


async def test_no_other_request_tells_whether_an_account_exists(client: httpx.AsyncClient, lab: Lab):
    stranger = Stranger(client, lab)
    await stranger.prepare()
    frozen = await opened(client, 5)
    await client.post(f"/api/v1/accounts/{frozen}/freeze", headers=lab.operator())
    answers = [await stranger.everything(account) for account in (str(uuid.uuid4()), await opened(client, 9), frozen)]
    assert answers[0] == answers[1] == answers[2]
