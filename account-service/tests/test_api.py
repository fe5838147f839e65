"""The HTTP contract of account-service, tested in-process."""

import asyncio
import json
import re
import time
import uuid

import httpx
import jwt
import pytest

from app.http import internal_api
from shared.testing.fixtures import Lab
from shared.http.web import Service
from shared.prometheus.registry import REGISTRY
from tests.support import key_header


async def create_account(client: httpx.AsyncClient, money: int = 0, headers: dict[str, str] | None = None) -> str:
    body = {"currency": "USD", "name": "Everyday"}
    response = await client.post("/api/v1/accounts", json=body, headers={**(headers or {}), **key_header()})
    assert response.status_code == 201
    account: str = response.json()["id"]
    if money:
        deposit = {"amount": money, "currency": "USD"}
        paid = await client.post(
            f"/api/v1/accounts/{account}/deposits", json=deposit, headers={**(headers or {}), **key_header()}
        )
        assert paid.status_code == 201
    return account


def assert_problem(response: httpx.Response, status: int, code: str) -> dict:
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"/problems/{code}" and body["status"] == status
    assert body["title"] and body["detail"] and body["instance"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


async def test_account_life_cycle(client: httpx.AsyncClient, lab: Lab):
    alices, bobs = await create_account(client, 1000), await create_account(client, headers=lab.headers("bob"))
    body = {"from_account": alices, "to_account": bobs, "amount": 250, "currency": "USD", "reference": "rent"}
    paid = await client.post("/api/v1/transfers", json=body, headers=key_header("rent-1"))

    assert paid.status_code == 201
    transaction = paid.json()
    assert set(transaction) == {
        *("id", "type", "status", "amount", "currency", "from_account", "to_account", "reference", "reverses"),
        *("entries", "created_at"),
    }
    assert sum(entry["amount"] for entry in transaction["entries"]) == 0
    assert uuid.UUID(transaction["id"]).version == 7
    assert paid.headers["x-app-track"] == "stable" and paid.headers["x-app-version"] == "dev"
    again = await client.post("/api/v1/transfers", json=body, headers=key_header('"rent-1"'))
    assert (again.content, again.headers["idempotent-replayed"]) == (paid.content, "true")

    shown = (await client.get(f"/api/v1/accounts/{alices}")).json()
    assert (shown["balance"], shown["held"], shown["available"], shown["seq"]) == (750, 0, 750, 2)
    hold = (
        await client.post(
            f"/api/v1/accounts/{alices}/holds", json={"amount": 50, "currency": "USD"}, headers=key_header()
        )
    ).json()
    assert (await client.post(f"/api/v1/holds/{hold['id']}/voids", headers=key_header())).json()["status"] == "voided"
    hold = (
        await client.post(
            f"/api/v1/accounts/{alices}/holds", json={"amount": 50, "currency": "USD"}, headers=key_header()
        )
    ).json()
    captured = (await client.post(f"/api/v1/holds/{hold['id']}/captures", headers=key_header())).json()
    assert (captured["status"], captured["captured_amount"]) == ("captured", 50)
    withdrawal = {"amount": 700, "currency": "USD"}
    assert (
        await client.post(f"/api/v1/accounts/{alices}/withdrawals", json=withdrawal, headers=key_header())
    ).status_code == 201
    reversal = await client.post(
        "/api/v1/reversals", json={"transaction_id": transaction["id"]}, headers={**lab.headers("bob"), **key_header()}
    )
    assert reversal.json()["reverses"] == transaction["id"]
    operator = lab.operator()
    frozen = await client.post(f"/api/v1/accounts/{alices}/freeze", headers=operator)
    assert (frozen.status_code, frozen.json()["status"]) == (200, "frozen")
    assert_problem(
        await client.post(f"/api/v1/accounts/{alices}/withdrawals", json=withdrawal, headers=key_header()),
        409,
        "account-frozen",
    )
    assert (await client.post(f"/api/v1/accounts/{alices}/unfreeze", headers=operator)).json()["status"] == "active"
    assert_problem(await client.post(f"/api/v1/accounts/{alices}/close", headers=operator), 409, "balance-not-zero")
    assert_problem(await client.post(f"/api/v1/accounts/{alices}/close"), 403, "forbidden")
    empty = await create_account(client)
    assert (await client.post(f"/api/v1/accounts/{empty}/close", headers=operator)).json()["status"] == "closed"


async def test_batch_of_transfers(client: httpx.AsyncClient):
    source, target = await create_account(client, 10), await create_account(client)
    items = [
        {"key": f"i{n}", "from_account": source, "to_account": target, "amount": n, "currency": "USD"} for n in (4, 9)
    ]
    response = await client.post("/api/v1/transfers:batch", json={"transfers": items}, headers=key_header("all"))
    assert response.status_code == 200
    first, second = response.json()["results"]
    assert (first["status"], second["status"], second["problem"]["code"]) == (201, 409, "insufficient-funds")
    too_many = [items[0]] * 1001
    refused = await client.post("/api/v1/transfers:batch", json={"transfers": too_many}, headers=key_header())
    assert_problem(refused, 422, "validation-failed")


@pytest.mark.parametrize("amount", [0, -1, 0.5, 1.0, "10", 10**15 + 1, True, None, [1], 2**70])
async def test_invalid_amounts_are_rejected(client: httpx.AsyncClient, amount: object):
    source, target = await create_account(client, 100), await create_account(client)
    body = {"from_account": source, "to_account": target, "amount": amount, "currency": "USD"}
    problem = assert_problem(
        await client.post("/api/v1/transfers", json=body, headers=key_header()), 422, "validation-failed"
    )
    assert problem["errors"][0]["pointer"] == "/amount"
    assert (await client.get(f"/api/v1/accounts/{source}")).json()["balance"] == 100


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"amount": 1e400}', 422, "validation-failed"),
        (b'{"amount": NaN}', 422, "validation-failed"),
        (b"{", 400, "malformed-request"),
        (b'{"name": "\xff"}', 400, "malformed-request"),
        (b'{"name": "\\ud800"}', 400, "malformed-request"),
        (b"", 422, "validation-failed"),
        (b"[]", 422, "validation-failed"),
        (b"null", 422, "validation-failed"),
        (b'{"from_account": "\\u0000"}', 422, "validation-failed"),
        (b"[" * 100_000, 400, "malformed-request"),
        (b" " * 2_000_000, 413, "payload-too-large"),
    ],
)
async def test_malformed_bodies_are_rejected(client: httpx.AsyncClient, content: bytes, status: int, code: str):
    assert_problem(await client.post("/api/v1/transfers", content=content, headers=key_header()), status, code)


async def test_a_chunked_body_is_limited(client: httpx.AsyncClient):
    async def endless():
        for _ in range(200):
            yield b" " * 10_000

    response = await client.post("/api/v1/transfers", content=endless(), headers=key_header())
    assert_problem(response, 413, "payload-too-large")


@pytest.mark.parametrize(
    "change",
    [
        {"currency": "usd"},
        {"currency": "US1"},
        {"currency": "ZZZ", "expected": "currency-mismatch"},
        {"currency": "EUR", "expected": "currency-mismatch"},
        {"unknown": 1},
        {"reference": "a\u0000b"},
        {"reference": "line\nbreak"},
        {"reference": "x" * 141},
        {"reference": ""},
        {"to_account": "not-an-id"},
        {"to_account": str(uuid.uuid4()), "expected": "not-found"},
    ],
)
async def test_invalid_fields_are_rejected(client: httpx.AsyncClient, change: dict[str, object]):
    source, target = await create_account(client, 100), await create_account(client)
    change = dict(change)
    expected = str(change.pop("expected", "validation-failed"))
    body = {"from_account": source, "to_account": target, "amount": 1, "currency": "USD", **change}
    response = await client.post("/api/v1/transfers", json=body, headers=key_header())
    assert_problem(response, 404 if expected == "not-found" else 422, expected)
    assert (await client.get(f"/api/v1/accounts/{source}")).json()["seq"] == 1


@pytest.mark.parametrize("key", [None, "", "x" * 256, "tab\there", '"half'])
async def test_invalid_idempotency_keys_are_rejected(client: httpx.AsyncClient, key: str | None):
    headers = {} if key is None else {"Idempotency-Key": key}
    response = await client.post("/api/v1/accounts", json={"currency": "USD"}, headers=headers)
    if key == '"half':
        assert response.status_code == 201, "a bare key may contain quotes"
    else:
        assert_problem(response, 400, "idempotency-key-missing")


def forge_token(lab: Lab, algorithm: str = "EdDSA", **changes: object) -> str:
    claims = {
        "iss": "banking-lab",
        "aud": "banking",
        "sub": "alice",
        "exp": int(time.time()) + 60,
        **changes,
    }
    kid = json.loads(lab.secrets.jwks.read_text())["keys"][0]["kid"]
    claims = {name: value for name, value in claims.items() if value is not None}
    if algorithm == "none":
        return jwt.encode(claims, None, "none", {"kid": kid})
    if algorithm == "HS256":
        return jwt.encode(claims, "k" * 32, "HS256", {"kid": kid})
    return jwt.encode(claims, lab.secrets.key.read_text(), algorithm, {"kid": kid})


@pytest.mark.parametrize(
    "make",
    [
        lambda lab: "",
        lambda lab: "Basic YTpi",
        lambda lab: "Bearer",
        lambda lab: "Bearer nonsense",
        lambda lab: "Bearer " + forge_token(lab, exp=int(time.time()) - 61),
        lambda lab: "Bearer " + forge_token(lab, exp=None),
        lambda lab: "Bearer " + forge_token(lab, sub=None),
        lambda lab: "Bearer " + forge_token(lab, sub="a\nb"),
        lambda lab: "Bearer " + forge_token(lab, iss="somebody"),
        lambda lab: "Bearer " + forge_token(lab, aud="something"),
        lambda lab: "Bearer " + forge_token(lab, nbf=int(time.time()) + 120),
        lambda lab: "Bearer " + forge_token(lab, "none"),
        lambda lab: "Bearer " + forge_token(lab, "HS256"),
    ],
)
async def test_invalid_tokens_are_rejected(client: httpx.AsyncClient, lab: Lab, make):
    response = await client.get("/api/v1/accounts", headers={"Authorization": make(lab)})
    assert_problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_a_token_signed_with_another_key_is_rejected(
    client: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory
):
    from shared.testing import lab_keys

    other = Lab(lab_keys.ensure(tmp_path_factory.mktemp("other")))
    assert_problem(await client.get("/api/v1/accounts", headers=other.headers("alice")), 401, "unauthorized")


async def test_accounts_of_other_owners_are_not_found(client: httpx.AsyncClient, lab: Lab):
    alices = await create_account(client, 100)
    bob = lab.headers("bob")
    money = {"amount": 1, "currency": "USD"}
    assert_problem(await client.get(f"/api/v1/accounts/{alices}", headers=bob), 404, "not-found")
    for action in ("deposits", "withdrawals", "holds"):
        response = await client.post(f"/api/v1/accounts/{alices}/{action}", json=money, headers={**bob, **key_header()})
        assert_problem(response, 404, "not-found")
    hold = (await client.post(f"/api/v1/accounts/{alices}/holds", json=money, headers=key_header())).json()["id"]
    for action in ("captures", "voids"):
        response = await client.post(f"/api/v1/holds/{hold}/{action}", headers={**bob, **key_header()})
        assert_problem(response, 404, "not-found")
    assert (await client.get("/api/v1/accounts", headers=bob)).json()["items"] == []


async def test_a_deposit_requires_its_scope(client: httpx.AsyncClient, lab: Lab):
    alices = await create_account(client)
    token = forge_token(lab, scope="something-else")
    response = await client.post(
        f"/api/v1/accounts/{alices}/deposits",
        json={"amount": 1, "currency": "USD"},
        headers={"Authorization": f"Bearer {token}", **key_header()},
    )
    assert_problem(response, 403, "forbidden")


async def test_accounts_are_paginated(client: httpx.AsyncClient):
    ids = [await create_account(client) for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        page = (
            await client.get("/api/v1/accounts", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        ).json()
        seen += [account["id"] for account in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids
    for query in ({"limit": 0}, {"limit": 201}, {"limit": "x"}, {"cursor": "!"}, {"cursor": "AAAA"}):
        assert_problem(await client.get("/api/v1/accounts", params=query), 422, "validation-failed")


async def test_every_error_is_a_problem_with_a_request_id(client: httpx.AsyncClient, application: Service, monkeypatch):
    assert_problem(await client.get("/nowhere"), 404, "not-found")
    assert_problem(await client.get("/api/v1/accounts/not-a-uuid"), 404, "not-found")
    refused = await client.delete("/api/v1/accounts")
    assert_problem(refused, 405, "method-not-allowed")
    assert refused.headers["allow"]
    response = await client.get("/api/v1/accounts", headers={"X-Request-ID": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    response = await client.get("/api/v1/accounts", headers={"X-Request-ID": "bad id\n"})
    assert response.headers["x-request-id"] != "bad id\n"

    async def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("secret detail")

    async def gone(*_arguments: object) -> None:
        raise ConnectionRefusedError("database")

    state = application.app.state
    for target, method in ((state.queries, "accounts"), (state.service, "execute")):
        monkeypatch.setattr(target, method, broken)
    assert "secret" not in json.dumps(assert_problem(await client.get("/api/v1/accounts"), 500, "internal-error"))
    response = await client.post("/api/v1/accounts", json={"currency": "USD"}, headers=key_header())
    assert_problem(response, 500, "internal-error")
    for target, method in ((state.queries, "accounts"), (state.service, "execute")):
        monkeypatch.setattr(target, method, gone)
    assert_problem(await client.get("/api/v1/accounts"), 503, "unavailable")
    response = await client.post("/api/v1/accounts", json={"currency": "USD"}, headers=key_header())
    assert_problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "1"


async def test_internal_routes_require_the_service_token(client: httpx.AsyncClient, lab: Lab):
    account = await create_account(client, 70)
    own = {"Authorization": f"Bearer {lab.service_token}"}
    for path in ("/internal/events?after=0", "/internal/balances", f"/internal/seqs?account_id={account}"):
        assert_problem(await client.get(path), 401, "unauthorized")
    balances = (await client.get("/internal/balances", headers=own)).json()
    assert {item["id"]: item["balance"] for item in balances["items"]}[account] == 70
    types: list[str] = []
    after = "0"
    while len(types) < 2:
        events = await client.get(f"/internal/events?after={after}&limit=1&wait=30", headers=own)
        assert events.headers["content-type"] == "application/cloudevents-batch+json"
        assert len(events.json()) == 1
        types += [event["type"] for event in events.json()]
        after = events.headers["x-next-position"]
    assert types == ["bank.account.opened", "bank.entry.posted"]
    assert_problem(await client.get("/internal/events?after=-1", headers=own), 422, "validation-failed")


async def test_internal_seqs(client: httpx.AsyncClient, lab: Lab, monkeypatch: pytest.MonkeyPatch):
    account, other = await create_account(client, 70), await create_account(client, 0)
    client.headers["Authorization"] = f"Bearer {lab.service_token}"

    async def asked(**query: str) -> httpx.Response:
        return await client.get("/internal/seqs", params=query)

    wanted = {"id": account, "owner": "alice", "currency": "USD", "seq": 1}
    assert (await asked(account_id=account.upper())).json() == {"items": [wanted], "more": False}
    found = (await asked(owner="alice")).json()
    assert [item["seq"] for item in found["items"] if item["id"] in (account, other)] == [1, 0]
    for query in ({"account_id": str(uuid.uuid4())}, {"owner": "nobody"}):
        assert (await asked(**query)).json() == {"items": [], "more": False}
    monkeypatch.setattr(internal_api, "_MAX_SEQS", 1)
    assert (found := (await asked(owner="alice")).json())["more"] and len(found["items"]) == 1
    # Cash accounts have an empty owner.
    for wrong in ({}, {"owner": ""}, {"account_id": "1"}, {"owner": "alice", "account_id": account}, {"who": "alice"}):
        assert_problem(await asked(**wrong), 422, "validation-failed")


async def test_requests_that_a_canary_was_asked_before_are_counted(client: httpx.AsyncClient):
    def counted() -> dict[str, float]:
        samples = next(one.samples for one in REGISTRY.collect() if one.name == "http_canary_retries")
        return {one.labels["canary_status"]: one.value for one in samples if one.labels["status"] == "200"}

    before = counted()
    for status in ("404", "502", "200", "4040", "x"):
        await client.get("/api/v1/accounts", headers={"X-Canary-Status": status})
    assert counted() == {**before, **{status: before.get(status, 0) + 1 for status in ("404", "502")}}


async def test_health_metrics_and_openapi(client: httpx.AsyncClient, application: Service):
    await create_account(client, 10)
    ready = await client.get("/health/ready")
    assert ready.json()["checks"]["database"] == "ok" and (await client.get("/health/live")).status_code == 200
    metrics = (await client.get("/metrics")).text
    assert 'bank_transactions_total{currency="USD",service="account-service",status="posted"' in metrics
    assert 'http_requests_total{code="",handler="/api/v1/accounts/{id}/deposits",method="POST"' in metrics
    assert re.search(
        r'http_requests_total\{code="unavailable",handler="/api/v1/accounts",method="POST"[^}]*status="503"', metrics
    )
    assert "bank_group_commit_batch_size_bucket" in metrics and "bank_ledger_imbalance" in metrics
    checked = re.search(r'bank_check_completed_timestamp_seconds\{check="ledger"[^}]*\} (\S+)', metrics)
    assert checked is not None and 0 <= time.time() - float(checked[1]) < 3600
    page = await client.get("/docs/account-service/")
    assert "assets/swagger-ui-bundle.js" in page.text and "https://" not in page.text
    assert (await client.get("/docs/account-service/assets/swagger-ui-bundle.js")).status_code == 200
    assert (await client.get("/docs/account-service")).status_code == 307
    paths = (await client.get("/docs/account-service/openapi.json")).json()["paths"]
    assert "/api/v1/transfers:batch" in paths and "requestBody" in paths["/api/v1/transfers"]["post"]

    relay = next(task for task in application.app.state.runtime.tasks if task.get_name() == "relay")
    relay.cancel()
    await asyncio.wait([relay])
    response = await client.get("/health/ready")
    assert assert_problem(response, 503, "unavailable")["errors"][0]["pointer"] == "/checks/relay"
