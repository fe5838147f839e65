"""The currency list of ISO 4217 is checked when an account is opened, not for existing accounts."""

import json

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from app import schemas
from app.domain.commands import Deposit, PlaceHold, Withdraw
from app.models import accounts
from app.service import AccountService
from app.settings import AccountSettings
from shared.http import bodies
from shared.http.bodies import EmptyBody, StrictBody, hashed_content
from shared.http.idempotency import canonical, request_hash
from shared.ids import new_id, utc_now
from shared.testing.fixtures import Lab
from tests.support import key_header, ledger_request, open_account
from tests.test_api import assert_problem

ONE, OTHER = "0198c5f0-7d3a-7c1e-9d4b-2f6a1b3c4d5e", "0198c5f0-7d3a-7c1e-9d4b-2f6a1b3c4d5f"


async def post(client: httpx.AsyncClient, path: str, body: dict | None = None, key: str = "", **headers: str):
    return await client.post(f"/api/v1{path}", json=body or {}, headers={**headers, **key_header(key)})


async def test_accounts_in_a_withdrawn_currency_can_be_paid_out(
    client: httpx.AsyncClient, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, money = {"currency": "HUF"}, {"amount": 100, "currency": "HUF"}
    account = (await post(client, "/accounts", opening, "open")).json()["id"]
    other = (await post(client, "/accounts", opening)).json()["id"]
    paid = await post(client, f"/accounts/{account}/deposits", money, "pay")
    assert paid.status_code == 201

    monkeypatch.setattr(schemas, "_CURRENCIES", schemas._CURRENCIES - {"HUF"})

    assert_problem(await post(client, "/accounts", opening), 422, "validation-failed")
    for path, body, key in (("/accounts", opening, "open"), (f"/accounts/{account}/deposits", money, "pay")):
        again = await post(client, path, body, key)
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.content == paid.content
    transfer = {"from_account": account, "to_account": other, "amount": 10, "currency": "HUF"}
    batch = {"transfers": [{"key": "item", **transfer}]}
    for path, body in (
        (f"/accounts/{account}/deposits", money),
        (f"/accounts/{account}/withdrawals", {**money, "amount": 180}),
        ("/transfers", transfer),
        ("/transfers:batch", batch),
    ):
        assert (await post(client, path, body)).status_code in (200, 201), path
    hold = await post(client, f"/accounts/{other}/holds", {**money, "amount": 20})
    assert (await post(client, f"/holds/{hold.json()['id']}/captures")).status_code == 201
    for one in (account, other):
        closed = await client.post(f"/api/v1/accounts/{one}/close", headers=lab.operator())
        assert closed.status_code == 200, closed.text


@pytest.mark.parametrize(
    "currency", ["XXX", "XTS", "XAU", "XAG", "XPT", "XPD", "XDR", "XBA", "XSU", "XUA", "ZZZ", "usd"]
)
async def test_a_currency_without_a_minor_unit_is_rejected(client: httpx.AsyncClient, currency: str) -> None:
    response = await post(client, "/accounts", {"currency": currency})
    assert assert_problem(response, 422, "validation-failed")["errors"][0]["pointer"] == "/currency"


async def test_a_command_alone_does_not_open_a_cash_account(service: AccountService, engine: AsyncEngine) -> None:
    account = await open_account(service, money=100)
    later = utc_now()
    for command in (
        Deposit(new_id(), account, 1, "ZZZ", None),
        Withdraw(new_id(), account, 1, "ZZZ", None),
        PlaceHold(new_id(), account, 1, "ZZZ", later),
        Deposit(new_id(), new_id(), 1, "ZZZ", None),
    ):
        response = await service.execute(ledger_request(command))
        assert json.loads(response.body)["code"] in ("currency-mismatch", "not-found")
    async with engine.connect() as connection:
        found = await connection.scalars(select(accounts.c.currency).where(accounts.c.kind == "cash"))
        assert found.all() == ["USD"]


async def test_a_replica_finds_cash_accounts_opened_by_another_replica(
    service: AccountService, engine: AsyncEngine, settings: AccountSettings
) -> None:
    account = await open_account(service, money=100, currency="EUR")
    other = AccountService(engine, settings)
    for command in (Withdraw(new_id(), account, 1, "EUR", None), Deposit(new_id(), account, 1, "EUR", None)):
        assert (await other.execute(ledger_request(command))).status == 201


@pytest.mark.parametrize(
    ("invalid", "code"),
    [
        ({"amount": 10, "currency": "USD", "reference": "a\nb"}, "idempotency-key-reused"),
        ({"amount": 10, "currency": "USD", "unknown": 1}, "idempotency-key-reused"),
        ({"amount": 10.0, "currency": "USD"}, "idempotency-key-reused"),
        ([], "idempotency-key-reused"),
    ],
)
async def test_an_invalid_request_with_a_used_key_is_rejected_as_key_reuse(
    client: httpx.AsyncClient, invalid: object, code: str
) -> None:
    account = (await post(client, "/accounts", {"currency": "USD"})).json()["id"]
    path = f"/accounts/{account}/deposits"
    await post(client, path, {"amount": 10, "currency": "USD"}, "used")
    assert_problem(await post(client, path, invalid, "used"), 422, code)  # type: ignore[arg-type]
    assert_problem(await post(client, path, invalid), 422, "validation-failed")  # type: ignore[arg-type]


async def test_content_that_cannot_be_hashed_is_rejected(client: httpx.AsyncClient) -> None:
    deep = b'{"currency": "USD", "name": ' + b"[" * 600 + b"]" * 600 + b"}"
    response = await client.post("/api/v1/accounts", content=deep, headers=key_header())
    assert response.status_code in (400, 422)


async def test_a_request_that_became_invalid_is_still_replayed(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = [(await post(client, "/accounts", {"currency": "USD"})).json()["id"] for _ in range(2)]
    await post(client, f"/accounts/{one}/deposits", {"amount": 100, "currency": "USD"})
    item = {"from_account": one.upper(), "to_account": other, "amount": 10, "currency": "USD"}
    requests = [
        ("/transfers", item, "single"),
        ("/transfers:batch", {"transfers": [{"key": "item", **item, "reference": "rent"}]}, "batch"),
    ]
    first = [await post(client, *request) for request in requests]
    assert [response.status_code for response in first] == [201, 200]

    def refuse(*_arguments: object, **_options: object) -> None:
        EmptyBody.model_validate({"everything": "is invalid now"})

    monkeypatch.setattr(bodies, "parse", refuse)
    for request, before in zip(requests, first):
        again = await post(client, *request)
        assert (again.status_code, again.content) == (before.status_code, before.content)
        assert again.headers["idempotent-replayed"] == "true"
        assert_problem(await post(client, *request[:2]), 422, "validation-failed")


# Stored keys have these hashes, so a change would turn replays into key reuse. A new field must be left out of the hash
# while it is absent.
HASHES = {
    ("/accounts", schemas.OpenAccountBody): ({"currency": "USD"}, "cac6b30b2f8f7ac7d17d9cdc6860e9ee"),
    ("/deposits", schemas.MoneyBody): ({"amount": 1, "currency": "USD"}, "8a86ee57d012ad31b59d04315abd5eb7"),
    ("/transfers", schemas.TransferBody): (
        {"from_account": ONE.upper(), "to_account": OTHER, "amount": 1, "currency": "USD"},
        "7abeed7a7a6af01ecef6155822d34d48",
    ),
    ("/transfers:batch", schemas.BatchBody): (
        {"transfers": [{"key": "k", "from_account": ONE.upper(), "to_account": OTHER, "amount": 1, "currency": "USD"}]},
        "5f652212a7ffadafa8c6ea46cbb2805c",
    ),
    ("/reversals", schemas.ReversalBody): ({"transaction_id": ONE.upper()}, "85dcf26a718fa6de073eb5a13f1088da"),
    ("/holds", schemas.HoldBody): ({"amount": 1, "currency": "USD"}, "f4aad3dfa1bee0fdd323dae71129df62"),
    ("/captures", schemas.CaptureBody): ({}, "c832008469590538a99ff79427f3e0cd"),
    ("/voids", EmptyBody): ({}, "b0689c9784af5f5f8c57380f1d7e066b"),
}


@pytest.mark.parametrize(("path", "model"), HASHES)
def test_request_hashes_are_stable(path: str, model: type[StrictBody]) -> None:
    content, expected = HASHES[path, model]
    validated = model.model_validate_json(json.dumps(content)).model_dump()
    assert request_hash(path, hashed_content(model, validated)).hex() == expected
    assert request_hash(path, hashed_content(model, canonical(model, content))).hex() == expected
