"""Who may do what: every route, asked by everybody who may not, and the ledger that stays as it was."""

import httpx
import jwt
import pytest
from sqlalchemy import select

from app.models import accounts
from shared.testing.fixtures import Lab
from shared.http.web import Service
from tests.support import keyed
from tests.test_api import assert_problem, opened

OPERATORS_ONLY = ("freeze", "unfreeze", "close")
# How a stranger's request about alice's things is answered; a path that is not here fails the test.
STRANGERS = {
    ("GET", "/api/v1/accounts"): 200,
    ("POST", "/api/v1/accounts"): 201,
    ("GET", "/api/v1/accounts/{id}"): 404,
    ("POST", "/api/v1/accounts/{id}/deposits"): 404,
    ("POST", "/api/v1/accounts/{id}/withdrawals"): 404,
    ("POST", "/api/v1/accounts/{id}/holds"): 404,
    ("POST", "/api/v1/holds/{id}/captures"): 404,
    ("POST", "/api/v1/holds/{id}/voids"): 404,
    ("POST", "/api/v1/transfers"): 404,
    ("POST", "/api/v1/transfers:batch"): 200,
    ("POST", "/api/v1/reversals"): 404,
    ("POST", "/api/v1/accounts/{id}/freeze"): 403,
    ("POST", "/api/v1/accounts/{id}/unfreeze"): 403,
    ("POST", "/api/v1/accounts/{id}/close"): 403,
    ("GET", "/api/v1/audit"): 403,
}


class Alices:
    """What alice has: two accounts, a hold, and a transfer between the two."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.account = self.other = self.hold = self.transfer = ""

    async def make(self) -> "Alices":
        """Open, pay, transfer and hold."""
        self.account, self.other = await opened(self._client, 1000), await opened(self._client, 500)
        money = {"amount": 10, "currency": "USD"}
        hold = await self._client.post(f"/api/v1/accounts/{self.account}/holds", json=money, headers=keyed())
        self.hold = hold.json()["id"]
        body = {"from_account": self.account, "to_account": self.other, **money}
        self.transfer = (await self._client.post("/api/v1/transfers", json=body, headers=keyed())).json()["id"]
        return self

    async def state(self) -> list[dict]:
        """Return the accounts as they are."""
        return [(await self._client.get(f"/api/v1/accounts/{one}")).json() for one in (self.account, self.other)]

    def body(self, path: str, target: str) -> dict:
        """Return the body of a request about what is alice's; `target` is where her money would go."""
        money = {"amount": 5, "currency": "USD"}
        transfer = {"from_account": self.account, "to_account": target, **money}
        bodies = {
            "transfers": transfer,
            "transfers:batch": {"transfers": [{"key": "theft", **transfer}]},
            "reversals": {"transaction_id": self.transfer},
            "accounts": {"currency": "USD"},
            **dict.fromkeys(("deposits", "withdrawals", "holds"), money),
        }
        return bodies.get(path.rpartition("/")[2], {})

    def path(self, template: str) -> str:
        """Return the path of what is hers."""
        return template.replace("{id}", self.hold if "/holds/{id}" in template else self.account)


@pytest.fixture
async def alices(client: httpx.AsyncClient) -> Alices:
    """What alice has."""
    return await Alices(client).make()


async def routes(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    """Return method and path of every route that is documented."""
    paths = (await client.get("/docs/account-service/openapi.json")).json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


async def ask(
    client: httpx.AsyncClient, alices: Alices, method: str, template: str, headers: dict[str, str], target: str = ""
) -> httpx.Response:
    """Ask for what is alice's."""
    body = alices.body(template, target or alices.other)
    content = {"json": body} if method == "POST" else {}
    return await client.request(method, alices.path(template), headers={**keyed(), **headers}, **content)


async def test_strangers_get_nothing_on_any_route(client: httpx.AsyncClient, alices: Alices, lab: Lab):
    bob = lab.headers("bob")
    own = await opened(client, headers=bob)
    before = await alices.state()
    assert {*await routes(client)} == {*STRANGERS}, "say how strangers are answered on a new route"
    for (method, template), status in STRANGERS.items():
        answer = await ask(client, alices, method, template, bob, own)
        assert answer.status_code == status, (method, template, answer.text)
        for secret in (alices.account, alices.other, alices.transfer, before[0]["account_number"]):
            # A path is repeated as it was asked for.
            assert secret not in answer.text.replace(alices.path(template), ""), (method, template)
    batch = await ask(client, alices, "POST", "/api/v1/transfers:batch", {**bob, **keyed("theft-2")}, own)
    assert [result["status"] for result in batch.json()["results"]] == [404]
    assert await alices.state() == before, "nothing has moved"
    assert (await client.get(f"/api/v1/accounts/{own}", headers=bob)).json()["balance"] == 0


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Basic YWxpY2U6", "Bearer eyJhbGciOiJub25lIn0.e30."])
async def test_without_a_token_no_route_answers(client: httpx.AsyncClient, alices: Alices, authorization: str):
    before = await alices.state()
    for method, template in await routes(client):
        assert_problem(
            await ask(client, alices, method, template, {"Authorization": authorization}), 401, "unauthorized"
        )
    assert await alices.state() == before


async def test_the_services_token_is_none_of_the_api(client: httpx.AsyncClient, alices: Alices, lab: Lab):
    for method, template in await routes(client):
        answer = await ask(client, alices, method, template, {"Authorization": f"Bearer {lab.service_token}"})
        assert_problem(answer, 401, "unauthorized")


async def test_a_customers_token_opens_nothing_internal(client: httpx.AsyncClient, lab: Lab):
    for headers in (lab.headers("alice"), lab.operator(), {"Authorization": "Bearer"}, {"X-Service-Token": "x"}):
        for path in ("/internal/events?after=0", "/internal/balances", "/internal/seqs?owner=alice"):
            assert_problem(await client.get(path, headers=headers), 401, "unauthorized")


def token(lab: Lab, **claims: object) -> dict[str, str]:
    """Return a header with a token of the lab's that says exactly this."""
    signed = lab.headers("alice")["Authorization"].split()[1]
    given = jwt.decode(signed, options={"verify_signature": False}) | {"scope": ""} | claims
    key = jwt.algorithms.OKPAlgorithm().prepare_key(lab.secrets.key.read_bytes())
    kid = jwt.get_unverified_header(signed)["kid"]
    return {"Authorization": "Bearer " + jwt.encode(given, key, "EdDSA", {"kid": kid})}


@pytest.mark.parametrize(
    "scope", ["", "bank:deposit", "bank:operators", "BANK:OPERATOR", "bank:operator,bank:deposit", ["bank:operator"]]
)
async def test_no_other_scope_makes_an_operator(client: httpx.AsyncClient, alices: Alices, lab: Lab, scope: object):
    mallory = token(lab, sub="mallory", scope=scope, scopes="bank:operator", role="operator", roles=["bank:operator"])
    before = await alices.state()
    for action in OPERATORS_ONLY:
        answer = await client.post(f"/api/v1/accounts/{alices.account}/{action}", headers=mallory)
        assert_problem(answer, 403, "forbidden")
        # Nor what the request itself claims.
        claims = {"X-Scope": "bank:operator", "X-Operator": "true", "X-Forwarded-User": "operator"}
        assert (await client.post(answer.request.url.path, headers={**mallory, **claims})).status_code == 403
    assert_problem(await client.get(f"/api/v1/accounts/{alices.account}", headers=mallory), 404, "not-found")
    assert (await client.get("/api/v1/accounts", headers=mallory)).json()["items"] == []
    assert await alices.state() == before


async def test_the_cash_desk_serves_its_own_accounts_only_and_nobody_else_brings_money(
    client: httpx.AsyncClient, alices: Alices, lab: Lab
):
    deposit = f"/api/v1/accounts/{alices.account}/deposits"
    money = {"amount": 5, "currency": "USD"}
    answer = await client.post(deposit, json=money, headers={**token(lab, scope="bank:deposits"), **keyed()})
    assert_problem(answer, 403, "forbidden")
    answer = await client.post(deposit, json=money, headers={**token(lab, sub="bob", scope="bank:deposit"), **keyed()})
    assert_problem(answer, 404, "not-found")


async def test_a_synthetic_token_makes_money_for_its_own_accounts_only(
    client: httpx.AsyncClient, alices: Alices, lab: Lab
):
    own = token(lab, sub="rollout-service", scope="bank:synthetic")
    opened = [
        (await client.post("/api/v1/accounts", json={"currency": "USD"}, headers={**own, **keyed()})).json()["id"]
        for _ in range(2)
    ]
    money = {"amount": 5, "currency": "USD"}
    before = await alices.state()
    paths = {
        f"/accounts/{opened[0]}/deposits": (money, 201),
        "/transfers": ({**money, "from_account": opened[0], "to_account": opened[1]}, 201),
        f"/accounts/{alices.account}/deposits": (money, 403),
        f"/accounts/{opened[1]}/withdrawals": (money, 403),
        f"/accounts/{opened[1]}/holds": (money, 403),
    }
    for path, (body, status) in paths.items():
        answer = await client.post(f"/api/v1{path}", json=body, headers={**own, **keyed()})
        assert answer.status_code == status, path
    outwards = {**money, "from_account": opened[1], "to_account": alices.account}
    answer = await client.post("/api/v1/transfers", json=outwards, headers={**own, **keyed()})
    assert_problem(answer, 403, "forbidden")
    batch = {"transfers": [{**outwards, "key": "one"}]}
    answer = await client.post("/api/v1/transfers:batch", json=batch, headers={**own, **keyed()})
    assert "forbidden" in answer.text and await alices.state() == before


async def test_a_body_cannot_say_whose_it_is(client: httpx.AsyncClient, alices: Alices, lab: Lab):
    bob = lab.headers("bob")
    for extra in (
        {"owner": "alice"},
        {"subject": "alice"},
        {"balance": 10**9},
        {"kind": "cash"},
        {"id": alices.account},
    ):
        answer = await client.post("/api/v1/accounts", json={"currency": "USD", **extra}, headers={**bob, **keyed()})
        assert_problem(answer, 422, "validation-failed")


async def test_a_key_of_somebody_elses_replays_nothing(client: httpx.AsyncClient, alices: Alices, lab: Lab):
    body = {"currency": "USD", "name": "Everyday"}
    mine = await client.post("/api/v1/accounts", json=body, headers=keyed("shared-key"))
    theirs = await client.post("/api/v1/accounts", json=body, headers={**lab.headers("bob"), **keyed("shared-key")})
    assert theirs.status_code == 201 and "idempotent-replayed" not in theirs.headers
    assert theirs.json()["id"] != mine.json()["id"] and theirs.json()["owner"] == "bob"


async def test_the_cash_account_is_nobodys(application: Service, client: httpx.AsyncClient, alices: Alices, lab: Lab):
    async with application.app.state.runtime.engine.connect() as connection:
        found = await connection.execute(select(accounts.c.id).where(accounts.c.kind == "cash"))
        cash = str(found.scalar_one())
    money = {"amount": 5, "currency": "USD"}
    for headers in (lab.headers("alice"), lab.operator()):
        assert_problem(await client.get(f"/api/v1/accounts/{cash}", headers=headers), 404, "not-found")
        for ends in ((cash, alices.account), (alices.account, cash)):
            body = {**dict(zip(("from_account", "to_account"), ends)), **money}
            answer = await client.post("/api/v1/transfers", json=body, headers={**headers, **keyed()})
            assert_problem(answer, 404, "not-found")
