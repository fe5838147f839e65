"""The contract: the OpenAPI document says what there is, and the service does what the document says."""

import asyncio
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from fastapi.openapi.utils import get_openapi
from hypothesis import HealthCheck, settings
from schemathesis import Case, HookContext

from app.api import ROUTES
from app.main import create
from app.models import metadata
from scripts.embedded import ROOT
from shared.contract import answers_as_promised, documented, serving
from shared.testing import Lab, create_tables
from tests.support import keyed, make_settings

_CHANCE = random.Random(0)
_KNOWN: dict[str, list[str]] = {"account": [], "hold": [], "transaction": []}
_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@pytest.fixture(scope="module")
def address(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service, served over HTTP on a database of its own."""
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('contract')}/bank.db"
    asyncio.run(create_tables(url, metadata))
    chosen = make_settings(lab, url, access_log=False)
    with serving(lambda: create(chosen)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str, lab: Lab) -> Iterator[httpx.Client]:
    """A client who may do everything."""
    with httpx.Client(base_url=address, headers=lab.operator()) as client:
        yield client


@pytest.fixture(scope="module")
def known(client: httpx.Client) -> dict[str, list[str]]:
    """Ids of accounts with money, of holds and of transactions, which about half of the requests are then about."""
    money = {"amount": 10**12, "currency": "USD"}
    for _ in range(3):
        account = client.post("/api/v1/accounts", json={"currency": "USD"}, headers=keyed()).json()["id"]
        _KNOWN["account"].append(account)
        deposit = client.post(f"/api/v1/accounts/{account}/deposits", json=money, headers=keyed())
        _KNOWN["transaction"].append(deposit.json()["id"])
    for _ in range(40):
        hold = {"amount": 100, "currency": "USD"}
        placed = client.post(f"/api/v1/accounts/{_KNOWN['account'][0]}/holds", json=hold, headers=keyed())
        _KNOWN["hold"].append(placed.json()["id"])
    return _KNOWN


# Schemathesis wants the document when tests are collected; that it is the one served is a test below.
api = schemathesis.openapi.from_dict(get_openapi(title="account-service", version="1", routes=ROUTES))


@api.hook
def map_body(_context: HookContext, body: Any) -> Any:
    """Let the body speak of what exists."""
    if isinstance(body, list):
        return [map_body(_context, item) for item in body]
    if not isinstance(body, dict):
        return body
    body = {name: map_body(_context, value) for name, value in body.items()}
    for name, kind in (("from_account", "account"), ("to_account", "account"), ("transaction_id", "transaction")):
        if name in body:
            body[name] = _existing(kind, body[name])
    if isinstance(body.get("currency"), str) and re.fullmatch("[A-Z]{3}", body["currency"]):
        body["currency"] = _CHANCE.choice(["USD", "USD", body["currency"]])
    return body


@api.hook
def map_path_parameters(context: HookContext, parameters: Any) -> Any:
    """Let the path lead to what exists."""
    kind = "hold" if context.operation is not None and "/holds/{id}" in context.operation.path else "account"
    return {name: _existing(kind, value) for name, value in parameters.items()} if parameters else parameters


def _existing(kind: str, value: Any) -> Any:
    # What is no id stays none: a wrong request has to stay wrong.
    if _KNOWN[kind] and isinstance(value, str) and _UUID.fullmatch(value) and _CHANCE.random() < 0.5:
        return _CHANCE.choice(_KNOWN[kind])
    return value


@api.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_operation_keeps_the_contract(case: Case, address: str, lab: Lab, known: dict[str, list[str]]) -> None:
    assert known
    case.call_and_validate(base_url=address, headers=lab.operator(), additional_checks=[answers_as_promised])


CONTRACT = {
    "POST /api/v1/accounts",
    "GET /api/v1/accounts",
    "GET /api/v1/accounts/{}",
    "POST /api/v1/accounts/{}/deposits",
    "POST /api/v1/accounts/{}/withdrawals",
    "POST /api/v1/transfers",
    "POST /api/v1/transfers:batch",
    "POST /api/v1/reversals",
    "POST /api/v1/accounts/{}/holds",
    "POST /api/v1/holds/{}/captures",
    "POST /api/v1/holds/{}/voids",
    "POST /api/v1/accounts/{}/freeze",
    "POST /api/v1/accounts/{}/unfreeze",
    "POST /api/v1/accounts/{}/close",
}


def test_the_document_shows_every_route_of_the_contract_and_no_other(client: httpx.Client) -> None:
    document = client.get("/docs/account-service/openapi.json").json()
    assert document["paths"] == api.raw_schema["paths"]
    assert documented(document) == CONTRACT
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["security"], f"{method} {path} needs a token"
            assert {"401", "500", "503"} <= operation["responses"].keys()
            named = {parameter["name"] for parameter in operation.get("parameters", [])}
            assert set(re.findall(r"{(\w+)}", path)) <= named
            keyless = method == "get" or path.rpartition("/")[2] in ("freeze", "unfreeze", "close")
            assert ("Idempotency-Key" in named) != keyless
            assert ("requestBody" in operation) == (method == "post")


def test_the_events_obey_their_schemas(client: httpx.Client, known: dict[str, list[str]], lab: Lab) -> None:
    account = known["account"][1]
    for action, body in (("withdrawals", 10**15), ("withdrawals", 5), ("holds", 5)):
        client.post(f"/api/v1/accounts/{account}/{action}", json={"amount": body, "currency": "USD"}, headers=keyed())
    client.post(f"/api/v1/holds/{known['hold'][0]}/voids", headers=keyed())
    client.post(f"/api/v1/holds/{known['hold'][1]}/captures", headers=keyed())
    client.post(f"/api/v1/reversals", json={"transaction_id": known["transaction"][2]}, headers=keyed())
    for action in ("freeze", "unfreeze"):
        assert client.post(f"/api/v1/accounts/{account}/{action}").status_code == 200
    expected = {file.stem for file in (ROOT / "shared/schemas").glob("bank.*.json")} - {"bank.transaction.flagged"}
    expected -= {"bank.account.closed", "bank.hold.expired"}
    seen: set[str] = set()
    after = "0"
    while not expected <= seen:
        query = {"after": after, "limit": "1000", "wait": "2"}
        answer = client.get("/internal/events", params=query, headers={"Authorization": f"Bearer {lab.service_token}"})
        assert answer.json(), f"no events of type {expected - seen}"
        after = answer.headers["x-next-position"]
        for event in answer.json():
            schema = json.loads((ROOT / f"shared/schemas/{event['type']}.json").read_text(encoding="utf-8"))
            jsonschema.validate(event, schema, format_checker=jsonschema.FormatChecker())
            seen.add(event["type"])
