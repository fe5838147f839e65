"""Permissions: every route is called by callers who lack them, and the ledger does not change."""

import httpx
import jwt
import pytest
from sqlalchemy import select

from app.models import accounts
from shared.testing.fixtures import Lab
from shared.http.web import Service
from tests.support import key_header
from tests.test_api import assert_problem, create_account

OPERATORS_ONLY = ("freeze", "unfreeze", "close", "limits")
# Status of bob's request about alice's resources; a route that is missing here fails the test.
STRANGERS = {
    ("GET", "/api/v1/accounts"): 200,
    ("POST", "/api/v1/accounts"): 201,
    ("GET", "/api/v1/accounts/{id}"): 404,
    ("POST", "/api/v1/accounts/{id}/deposits"): 404,
    ("POST", "/api/v1/accounts/{id}/withdrawals"): 404,
    ("POST", "/api/v1/accounts/{id}/holds"): 404,
    ("GET", "/api/v1/accounts/{id}/balance"): 404,
    ("GET", "/api/v1/accounts/{id}/holds"): 404,
    ("GET", "/api/v1/holds/{id}"): 404,
    ("POST", "/api/v1/holds/{id}/captures"): 404,
    ("POST", "/api/v1/holds/{id}/extensions"): 404,
    ("POST", "/api/v1/holds/{id}/voids"): 404,
    ("POST", "/api/v1/transfers"): 404,
    ("POST", "/api/v1/transfers:batch"): 200,
    ("POST", "/api/v1/reversals"): 404,
    ("POST", "/api/v1/transaction-groups"): 404,
    ("POST", "/api/v1/transaction-groups/{id}/reversals"): 404,
    ("POST", "/api/v1/accounts/{id}/freeze"): 403,
    ("POST", "/api/v1/accounts/{id}/unfreeze"): 403,
    ("POST", "/api/v1/accounts/{id}/close"): 403,
    ("POST", "/api/v1/accounts/{id}/limits"): 403,
    ("GET", "/api/v1/audit"): 403,
    ("GET", "/api/v1/ledger/roots"): 200,
    ("GET", "/api/v1/ledger/consistency"): 422,
    ("GET", "/api/v1/transactions/{id}/proof"): 404,
}


class AliceResources:
    """Alice's resources: two accounts, a hold, and a transfer and a group between the accounts."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.account = self.other = self.hold = self.transfer = self.group = ""

    async def create(self) -> "AliceResources":
        """Create the resources."""
        self.account, self.other = await create_account(self._client, 1000), await create_account(self._client, 500)
        money = {"amount": 10, "currency": "USD"}
        hold = await self._client.post(f"/api/v1/accounts/{self.account}/holds", json=money, headers=key_header())
        self.hold = hold.json()["id"]
        body = {"from_account": self.account, "to_account": self.other, **money}
        self.transfer = (await self._client.post("/api/v1/transfers", json=body, headers=key_header())).json()["id"]
        group = await self._client.post("/api/v1/transaction-groups", json={"legs": [body]}, headers=key_header())
        self.group = group.json()["id"]
        return self

    async def state(self) -> list[dict]:
        """Return the accounts as alice sees them."""
        return [(await self._client.get(f"/api/v1/accounts/{id_}")).json() for id_ in (self.account, self.other)]

    def body(self, path: str, target: str) -> dict:
        """Return the body of a request about alice's resources; `target` is the account that would be credited."""
        money = {"amount": 5, "currency": "USD"}
        transfer = {"from_account": self.account, "to_account": target, **money}
        bodies = {
            "transfers": transfer,
            "transfers:batch": {"transfers": [{"key": "theft", **transfer}]},
            "transaction-groups": {"legs": [transfer]},
            "accounts": {"currency": "USD"},
            "extensions": {"expires_in": 30 * 86400},
            "limits": {"overdraft_limit": 1000, "daily_debit_limit": None},
            **dict.fromkeys(("deposits", "withdrawals", "holds"), money),
        }
        if path == "/api/v1/reversals":
            return {"transaction_id": self.transfer}
        return bodies.get(path.rpartition("/")[2], {})

    def path(self, template: str) -> str:
        """Return the path of one of the resources."""
        resources = {"holds": self.hold, "transactions": self.transfer, "transaction-groups": self.group}
        return template.replace("{id}", resources.get(template.split("/")[3], self.account))


@pytest.fixture
async def alices(client: httpx.AsyncClient) -> AliceResources:
    """Alice's resources."""
    return await AliceResources(client).create()


async def routes(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    """Return method and path of every documented route."""
    paths = (await client.get("/docs/account-service/openapi.json")).json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


async def send(
    client: httpx.AsyncClient,
    alices: AliceResources,
    method: str,
    template: str,
    headers: dict[str, str],
    target: str = "",
) -> httpx.Response:
    """Send a request about alice's resources."""
    body = alices.body(template, target or alices.other)
    content = {"json": body} if method == "POST" else {}
    return await client.request(method, alices.path(template), headers={**key_header(), **headers}, **content)


async def test_other_callers_cannot_use_any_route(client: httpx.AsyncClient, alices: AliceResources, lab: Lab):
    bob = lab.headers("bob")
    own = await create_account(client, headers=bob)
    before = await alices.state()
    assert {*await routes(client)} == {*STRANGERS}, "add the new route to STRANGERS"
    for (method, template), status in STRANGERS.items():
        response = await send(client, alices, method, template, bob, own)
        assert response.status_code == status, (method, template, response.text)
        for secret in (alices.account, alices.other, alices.transfer, alices.group, before[0]["account_number"]):
            # Problems repeat the path of the request.
            assert secret not in response.text.replace(alices.path(template), ""), (method, template)
    batch = await send(client, alices, "POST", "/api/v1/transfers:batch", {**bob, **key_header("theft-2")}, own)
    assert [result["status"] for result in batch.json()["results"]] == [404]
    assert await alices.state() == before, "no money was moved"
    assert (await client.get(f"/api/v1/accounts/{own}", headers=bob)).json()["balance"] == 0


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Basic YWxpY2U6", "Bearer eyJhbGciOiJub25lIn0.e30."])
async def test_every_route_requires_a_token(client: httpx.AsyncClient, alices: AliceResources, authorization: str):
    before = await alices.state()
    for method, template in await routes(client):
        assert_problem(
            await send(client, alices, method, template, {"Authorization": authorization}), 401, "unauthorized"
        )
    assert await alices.state() == before


async def test_the_api_rejects_the_service_token(client: httpx.AsyncClient, alices: AliceResources, lab: Lab):
    for method, template in await routes(client):
        response = await send(client, alices, method, template, {"Authorization": f"Bearer {lab.service_token}"})
        assert_problem(response, 401, "unauthorized")


async def test_internal_routes_reject_customer_tokens(client: httpx.AsyncClient, lab: Lab):
    for headers in (lab.headers("alice"), lab.operator(), {"Authorization": "Bearer"}, {"X-Service-Token": "x"}):
        for path in ("events?after=0", "snapshot", "balances", "seqs?owner=alice"):
            assert_problem(await client.get(f"/internal/{path}", headers=headers), 401, "unauthorized")


def token(lab: Lab, **claims: object) -> dict[str, str]:
    """Return a header with a lab token that has exactly these claims."""
    signed = lab.headers("alice")["Authorization"].split()[1]
    given = jwt.decode(signed, options={"verify_signature": False}) | {"scope": ""} | claims
    key = jwt.algorithms.OKPAlgorithm().prepare_key(lab.secrets.key.read_bytes())
    kid = jwt.get_unverified_header(signed)["kid"]
    return {"Authorization": "Bearer " + jwt.encode(given, key, "EdDSA", {"kid": kid})}


@pytest.mark.parametrize(
    "scope", ["", "bank:deposit", "bank:operators", "BANK:OPERATOR", "bank:operator,bank:deposit", ["bank:operator"]]
)
async def test_only_the_operator_scope_grants_operator_rights(
    client: httpx.AsyncClient, alices: AliceResources, lab: Lab, scope: object
):
    mallory = token(lab, sub="mallory", scope=scope, scopes="bank:operator", role="operator", roles=["bank:operator"])
    before = await alices.state()
    for action in OPERATORS_ONLY:
        response = await client.post(f"/api/v1/accounts/{alices.account}/{action}", headers=mallory)
        assert_problem(response, 403, "forbidden")
        # Headers grant no rights either.
        claims = {"X-Scope": "bank:operator", "X-Operator": "true", "X-Forwarded-User": "operator"}
        assert (await client.post(response.request.url.path, headers={**mallory, **claims})).status_code == 403
    assert_problem(await client.get(f"/api/v1/accounts/{alices.account}", headers=mallory), 404, "not-found")
    assert (await client.get("/api/v1/accounts", headers=mallory)).json()["items"] == []
    assert await alices.state() == before


async def test_deposits_require_the_deposit_scope_and_an_own_account(
    client: httpx.AsyncClient, alices: AliceResources, lab: Lab
):
    deposit = f"/api/v1/accounts/{alices.account}/deposits"
    money = {"amount": 5, "currency": "USD"}
    response = await client.post(deposit, json=money, headers={**token(lab, scope="bank:deposits"), **key_header()})
    assert_problem(response, 403, "forbidden")
    response = await client.post(
        deposit, json=money, headers={**token(lab, sub="bob", scope="bank:deposit"), **key_header()}
    )
    assert_problem(response, 404, "not-found")


async def test_a_synthetic_token_only_funds_its_own_accounts(
    client: httpx.AsyncClient, alices: AliceResources, lab: Lab
):
    own = token(lab, sub="rollout-service", scope="bank:synthetic")
    opened = [
        (await client.post("/api/v1/accounts", json={"currency": "USD"}, headers={**own, **key_header()})).json()["id"]
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
        "/transaction-groups": ({"legs": [{**money, "from_account": opened[1], "to_account": alices.account}]}, 403),
    }
    for path, (body, status) in paths.items():
        response = await client.post(f"/api/v1{path}", json=body, headers={**own, **key_header()})
        assert response.status_code == status, path
    outwards = {**money, "from_account": opened[1], "to_account": alices.account}
    response = await client.post("/api/v1/transfers", json=outwards, headers={**own, **key_header()})
    assert_problem(response, 403, "forbidden")
    batch = {"transfers": [{**outwards, "key": "one"}]}
    response = await client.post("/api/v1/transfers:batch", json=batch, headers={**own, **key_header()})
    assert "forbidden" in response.text and await alices.state() == before


async def test_a_body_cannot_set_the_owner(client: httpx.AsyncClient, alices: AliceResources, lab: Lab):
    bob = lab.headers("bob")
    for extra in (
        {"owner": "alice"},
        {"subject": "alice"},
        {"balance": 10**9},
        {"kind": "cash"},
        {"id": alices.account},
    ):
        response = await client.post(
            "/api/v1/accounts", json={"currency": "USD", **extra}, headers={**bob, **key_header()}
        )
        assert_problem(response, 422, "validation-failed")


async def test_keys_of_other_subjects_are_not_replayed(client: httpx.AsyncClient, alices: AliceResources, lab: Lab):
    body = {"currency": "USD", "name": "Everyday"}
    mine = await client.post("/api/v1/accounts", json=body, headers=key_header("shared-key"))
    theirs = await client.post(
        "/api/v1/accounts", json=body, headers={**lab.headers("bob"), **key_header("shared-key")}
    )
    assert theirs.status_code == 201 and "idempotent-replayed" not in theirs.headers
    assert theirs.json()["id"] != mine.json()["id"] and theirs.json()["owner"] == "bob"


async def test_the_cash_account_is_visible_to_no_caller(
    application: Service, client: httpx.AsyncClient, alices: AliceResources, lab: Lab
):
    async with application.app.state.runtime.engine.connect() as connection:
        found = await connection.execute(select(accounts.c.id).where(accounts.c.kind == "cash"))
        cash = str(found.scalar_one())
    money = {"amount": 5, "currency": "USD"}
    for headers in (lab.headers("alice"), lab.operator()):
        assert_problem(await client.get(f"/api/v1/accounts/{cash}", headers=headers), 404, "not-found")
        for ends in ((cash, alices.account), (alices.account, cash)):
            body = {**dict(zip(("from_account", "to_account"), ends)), **money}
            response = await client.post("/api/v1/transfers", json=body, headers={**headers, **key_header()})
            assert_problem(response, 404, "not-found")
