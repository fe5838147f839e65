"""Authorization of every route."""

import httpx
import pytest

from app.application.ingestion import EventIngestion
from shared.testing.fixtures import Lab
from tests.support import Ledger
from tests.test_api import assert_problem

# How a stranger's request about bob's things is answered; a path that is not here fails the test.
STRANGERS = {
    "GET /api/v1/transactions": 200,
    "GET /api/v1/transactions/{id}": 404,
    "GET /api/v1/statements/{account_id}": 404,
    "GET /api/v1/flags": 403,
    "GET /api/v1/reconciliation": 403,
    "POST /api/v1/webhooks": 404,
    "GET /api/v1/webhooks": 200,
    "GET /api/v1/webhooks/{id}": 404,
    "PATCH /api/v1/webhooks/{id}": 404,
    "DELETE /api/v1/webhooks/{id}": 404,
    "GET /api/v1/webhooks/{id}/deliveries": 404,
}
URL = "https://bob.example/events"


class Bobs:
    """Bob's data: an account, a flagged payment and a webhook."""

    webhook = ""

    def __init__(self, ledger: Ledger) -> None:
        self.account = ledger.open("bob")
        self.transaction = ledger.withdraw(self.account, 10_000_001)

    async def request(
        self, client: httpx.AsyncClient, route: str, query: str = "", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Send a request about bob's resource."""
        method, template = route.split(" ")
        id_ = self.webhook if "webhooks" in template else self.transaction
        path = template.replace("{id}", id_).replace("{account_id}", self.account)
        body = {"POST": {"url": URL, "account_id": self.account}, "PATCH": {"url": URL}}.get(method)
        headers = {**(headers or {}), "Idempotency-Key": "k"} if method == "POST" else headers
        return await client.request(method, path + query, json=body, headers=headers)


@pytest.fixture
async def bobs(client: httpx.AsyncClient, ingestion: EventIngestion, ledger: Ledger, lab: Lab) -> Bobs:
    """Bob's data in the history, and his webhook."""
    bobs = Bobs(ledger)
    await ingestion.apply(ledger.events, [])
    bobs.webhook = (await bobs.request(client, "POST /api/v1/webhooks", headers=lab.headers("bob"))).json()["id"]
    return bobs


async def routes(client: httpx.AsyncClient) -> set[str]:
    """Return method and path of all documented routes."""
    paths = (await client.get("/docs/transaction-service/openapi.json")).json()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


async def test_other_callers_cannot_use_any_route(client: httpx.AsyncClient, bobs: Bobs):
    assert await routes(client) == set(STRANGERS), "add the new route to STRANGERS"
    for route, status in STRANGERS.items():
        for query in ("", f"?account_id={bobs.account}", "?owner=bob&subject=bob&limit=200"):
            answer = await bobs.request(client, route, query)
            # Another's account is not there, also where it only narrows a list.
            narrowed = route == "GET /api/v1/transactions" and query.startswith("?account_id")
            # A parameter that the route does not have is refused before anything is looked up.
            unknown = bool(query) and answer.status_code == 422 and "unknown parameter" in answer.text
            assert unknown or answer.status_code == (404 if narrowed else status), (route, query, answer.text)
            shown = answer.text.replace(answer.request.url.path, "")
            assert not any(id_ in shown for id_ in (bobs.account, bobs.transaction, bobs.webhook)), (route, query)


@pytest.mark.parametrize("scope", ["", "bank:deposit", "bank:operators", "BANK:OPERATOR", "bank:operator,bank:deposit"])
async def test_only_the_operator_scope_grants_operator_rights(
    client: httpx.AsyncClient, bobs: Bobs, lab: Lab, scope: str
):
    mallory = {**lab.headers("mallory", scope), "X-Scope": "bank:operator", "X-Forwarded-User": "operator"}
    for route, status in STRANGERS.items():
        assert (await bobs.request(client, route, headers=mallory)).status_code == status, route
    assert (await client.get("/api/v1/transactions", headers=mallory)).json()["items"] == []


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Basic Ym9iOg==", "Bearer eyJhbGciOiJub25lIn0.e30."])
async def test_every_route_requires_a_token(client: httpx.AsyncClient, bobs: Bobs, authorization: str):
    for route in await routes(client):
        answer = await bobs.request(client, route, headers={"Authorization": authorization})
        assert_problem(answer, 401, "unauthorized")


async def test_service_tokens_and_user_tokens_are_not_interchangeable(client: httpx.AsyncClient, bobs: Bobs, lab: Lab):
    for route in await routes(client):
        answer = await bobs.request(client, route, headers={"Authorization": f"Bearer {lab.service_token}"})
        assert_problem(answer, 401, "unauthorized")
    for headers in (lab.headers("alice"), lab.operator(), {"Authorization": "Bearer"}):
        for path in ("events", "snapshot"):
            assert_problem(await client.get(f"/internal/{path}", headers=headers), 401, "unauthorized")


async def test_a_cursor_of_another_caller_reveals_nothing(client: httpx.AsyncClient, bobs: Bobs, lab: Lab):
    operator = await client.get("/api/v1/transactions?limit=1", headers=lab.operator())
    cursor = operator.json()["next_cursor"]
    assert (await client.get("/api/v1/transactions", params={"cursor": cursor} if cursor else {})).json()["items"] == []
