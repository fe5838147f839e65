"""Authorization of every route."""

import httpx
import pytest

from app.application.ingestion import EventIngestion
from shared.testing.fixtures import Lab
from tests.support import Ledger
from tests.test_api import assert_problem

# How a stranger's request about bob's things is answered; a path that is not here fails the test.
STRANGERS = {
    "/api/v1/transactions": 200,
    "/api/v1/transactions/{id}": 404,
    "/api/v1/statements/{account_id}": 404,
    "/api/v1/flags": 403,
    "/api/v1/reconciliation": 403,
}


class Bobs:
    """Bob's data: an account and a flagged payment."""

    def __init__(self, ledger: Ledger) -> None:
        self.account = ledger.open("bob")
        self.transaction = ledger.withdraw(self.account, 10_000_001)

    def path(self, template: str) -> str:
        """Return the path of bob's resource."""
        return template.replace("{id}", self.transaction).replace("{account_id}", self.account)


@pytest.fixture
async def bobs(ingestion: EventIngestion, ledger: Ledger) -> Bobs:
    """Bob's data in the history."""
    bobs = Bobs(ledger)
    await ingestion.apply(ledger.events, [])
    return bobs


async def routes(client: httpx.AsyncClient) -> set[str]:
    """Return the paths of all documented routes; all are GET."""
    paths = (await client.get("/docs/transaction-service/openapi.json")).json()["paths"]
    assert all([*methods] == ["get"] for methods in paths.values())
    return set(paths)


async def test_other_callers_cannot_use_any_route(client: httpx.AsyncClient, bobs: Bobs):
    assert await routes(client) == set(STRANGERS), "add the new route to STRANGERS"
    for template, status in STRANGERS.items():
        for query in ("", f"?account_id={bobs.account}", "?owner=bob&subject=bob&limit=200"):
            path = bobs.path(template)
            answer = await client.get(path + query)
            # Another's account is not there, also where it only narrows a list.
            narrowed = template == "/api/v1/transactions" and query.startswith("?account_id")
            # A parameter that the route does not have is refused before anything is looked up.
            unknown = bool(query) and answer.status_code == 422 and "unknown parameter" in answer.text
            assert unknown or answer.status_code == (404 if narrowed else status), (path, query, answer.text)
            shown = answer.text.replace(path, "")
            assert bobs.account not in shown and bobs.transaction not in shown, (path, query)


@pytest.mark.parametrize("scope", ["", "bank:deposit", "bank:operators", "BANK:OPERATOR", "bank:operator,bank:deposit"])
async def test_only_the_operator_scope_grants_operator_rights(
    client: httpx.AsyncClient, bobs: Bobs, lab: Lab, scope: str
):
    mallory = {**lab.headers("mallory", scope), "X-Scope": "bank:operator", "X-Forwarded-User": "operator"}
    for template, status in STRANGERS.items():
        assert (await client.get(bobs.path(template), headers=mallory)).status_code == status, template
    assert (await client.get("/api/v1/transactions", headers=mallory)).json()["items"] == []


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Basic Ym9iOg==", "Bearer eyJhbGciOiJub25lIn0.e30."])
async def test_every_route_requires_a_token(client: httpx.AsyncClient, bobs: Bobs, authorization: str):
    for template in await routes(client):
        answer = await client.get(bobs.path(template), headers={"Authorization": authorization})
        assert_problem(answer, 401, "unauthorized")


async def test_service_tokens_and_user_tokens_are_not_interchangeable(client: httpx.AsyncClient, bobs: Bobs, lab: Lab):
    for template in await routes(client):
        answer = await client.get(bobs.path(template), headers={"Authorization": f"Bearer {lab.service_token}"})
        assert_problem(answer, 401, "unauthorized")
    for headers in (lab.headers("alice"), lab.operator(), {"Authorization": "Bearer"}):
        for path in ("events", "snapshot"):
            assert_problem(await client.get(f"/internal/{path}", headers=headers), 401, "unauthorized")


async def test_a_cursor_of_another_caller_reveals_nothing(client: httpx.AsyncClient, bobs: Bobs, lab: Lab):
    operator = await client.get("/api/v1/transactions?limit=1", headers=lab.operator())
    cursor = operator.json()["next_cursor"]
    assert (await client.get("/api/v1/transactions", params={"cursor": cursor} if cursor else {})).json()["items"] == []
