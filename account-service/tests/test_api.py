"""The HTTP contract of account-service, inside the process."""

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
from tests.support import keyed


async def opened(client: httpx.AsyncClient, money: int = 0, headers: dict[str, str] | None = None) -> str:
    body = {"currency": "USD", "name": "Everyday"}
    answer = await client.post("/api/v1/accounts", json=body, headers={**(headers or {}), **keyed()})
    assert answer.status_code == 201
    account: str = answer.json()["id"]
    if money:
        deposit = {"amount": money, "currency": "USD"}
        paid = await client.post(
            f"/api/v1/accounts/{account}/deposits", json=deposit, headers={**(headers or {}), **keyed()}
        )
        assert paid.status_code == 201
    return account


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"/problems/{code}" and body["status"] == status
    assert body["title"] and body["detail"] and body["instance"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


async def test_the_life_of_an_account(client: httpx.AsyncClient, lab: Lab):
    alices, bobs = await opened(client, 1000), await opened(client, headers=lab.headers("bob"))
    body = {"from_account": alices, "to_account": bobs, "amount": 250, "currency": "USD", "reference": "rent"}
    paid = await client.post("/api/v1/transfers", json=body, headers=keyed("rent-1"))

    assert paid.status_code == 201
    transaction = paid.json()
    assert set(transaction) == {
        *("id", "type", "status", "amount", "currency", "from_account", "to_account", "reference", "reverses"),
        *("entries", "created_at"),
    }
    assert sum(entry["amount"] for entry in transaction["entries"]) == 0
    assert uuid.UUID(transaction["id"]).version == 7
    assert paid.headers["x-app-track"] == "stable" and paid.headers["x-app-version"] == "dev"
    again = await client.post("/api/v1/transfers", json=body, headers=keyed('"rent-1"'))
    assert (again.content, again.headers["idempotent-replayed"]) == (paid.content, "true")

    shown = (await client.get(f"/api/v1/accounts/{alices}")).json()
    assert (shown["balance"], shown["held"], shown["available"], shown["seq"]) == (750, 0, 750, 2)
    hold = (
        await client.post(f"/api/v1/accounts/{alices}/holds", json={"amount": 50, "currency": "USD"}, headers=keyed())
    ).json()
    assert (await client.post(f"/api/v1/holds/{hold['id']}/voids", headers=keyed())).json()["status"] == "voided"
    hold = (
        await client.post(f"/api/v1/accounts/{alices}/holds", json={"amount": 50, "currency": "USD"}, headers=keyed())
    ).json()
    captured = (await client.post(f"/api/v1/holds/{hold['id']}/captures", headers=keyed())).json()
    assert (captured["status"], captured["captured_amount"]) == ("captured", 50)
    withdrawal = {"amount": 700, "currency": "USD"}
    assert (
        await client.post(f"/api/v1/accounts/{alices}/withdrawals", json=withdrawal, headers=keyed())
    ).status_code == 201
    reversal = await client.post(
        "/api/v1/reversals", json={"transaction_id": transaction["id"]}, headers={**lab.headers("bob"), **keyed()}
    )
    assert reversal.json()["reverses"] == transaction["id"]
    operator = lab.operator()
    frozen = await client.post(f"/api/v1/accounts/{alices}/freeze", headers=operator)
    assert (frozen.status_code, frozen.json()["status"]) == (200, "frozen")
    assert_problem(
        await client.post(f"/api/v1/accounts/{alices}/withdrawals", json=withdrawal, headers=keyed()),
        409,
        "account-frozen",
    )
    assert (await client.post(f"/api/v1/accounts/{alices}/unfreeze", headers=operator)).json()["status"] == "active"
    assert_problem(await client.post(f"/api/v1/accounts/{alices}/close", headers=operator), 409, "balance-not-zero")
    assert_problem(await client.post(f"/api/v1/accounts/{alices}/close"), 403, "forbidden")
    empty = await opened(client)
    assert (await client.post(f"/api/v1/accounts/{empty}/close", headers=operator)).json()["status"] == "closed"


async def test_batches_over_http(client: httpx.AsyncClient):
    source, target = await opened(client, 10), await opened(client)
    items = [
        {"key": f"i{n}", "from_account": source, "to_account": target, "amount": n, "currency": "USD"} for n in (4, 9)
    ]
    answer = await client.post("/api/v1/transfers:batch", json={"transfers": items}, headers=keyed("all"))
    assert answer.status_code == 200
    first, second = answer.json()["results"]
    assert (first["status"], second["status"], second["problem"]["code"]) == (201, 409, "insufficient-funds")
    too_many = [items[0]] * 1001
    refused = await client.post("/api/v1/transfers:batch", json={"transfers": too_many}, headers=keyed())
    assert_problem(refused, 422, "validation-failed")


@pytest.mark.parametrize("amount", [0, -1, 0.5, 1.0, "10", 10**15 + 1, True, None, [1], 2**70])
async def test_wrong_amounts_move_nothing(client: httpx.AsyncClient, amount: object):
    source, target = await opened(client, 100), await opened(client)
    body = {"from_account": source, "to_account": target, "amount": amount, "currency": "USD"}
    problem = assert_problem(
        await client.post("/api/v1/transfers", json=body, headers=keyed()), 422, "validation-failed"
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
async def test_broken_bodies(client: httpx.AsyncClient, content: bytes, status: int, code: str):
    assert_problem(await client.post("/api/v1/transfers", content=content, headers=keyed()), status, code)


async def test_a_body_that_hides_its_size_is_cut_off(client: httpx.AsyncClient):
    async def endless():
        for _ in range(200):
            yield b" " * 10_000

    answer = await client.post("/api/v1/transfers", content=endless(), headers=keyed())
    assert_problem(answer, 413, "payload-too-large")


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
async def test_wrong_fields(client: httpx.AsyncClient, change: dict[str, object]):
    source, target = await opened(client, 100), await opened(client)
    change = dict(change)
    expected = str(change.pop("expected", "validation-failed"))
    body = {"from_account": source, "to_account": target, "amount": 1, "currency": "USD", **change}
    answer = await client.post("/api/v1/transfers", json=body, headers=keyed())
    assert_problem(answer, 404 if expected == "not-found" else 422, expected)
    assert (await client.get(f"/api/v1/accounts/{source}")).json()["seq"] == 1


@pytest.mark.parametrize("key", [None, "", "x" * 256, "tab\there", '"half'])
async def test_keys_that_are_none(client: httpx.AsyncClient, key: str | None):
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = await client.post("/api/v1/accounts", json={"currency": "USD"}, headers=headers)
    if key == '"half':
        assert answer.status_code == 201, "a bare key may contain quotes"
    else:
        assert_problem(answer, 400, "idempotency-key-missing")


def forged(lab: Lab, algorithm: str = "EdDSA", **changes: object) -> str:
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
        lambda lab: "Bearer " + forged(lab, exp=int(time.time()) - 61),
        lambda lab: "Bearer " + forged(lab, exp=None),
        lambda lab: "Bearer " + forged(lab, sub=None),
        lambda lab: "Bearer " + forged(lab, sub="a\nb"),
        lambda lab: "Bearer " + forged(lab, iss="somebody"),
        lambda lab: "Bearer " + forged(lab, aud="something"),
        lambda lab: "Bearer " + forged(lab, nbf=int(time.time()) + 120),
        lambda lab: "Bearer " + forged(lab, "none"),
        lambda lab: "Bearer " + forged(lab, "HS256"),
    ],
)
async def test_tokens_that_open_nothing(client: httpx.AsyncClient, lab: Lab, make):
    answer = await client.get("/api/v1/accounts", headers={"Authorization": make(lab)})
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_foreign_key_opens_nothing(client: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory):
    from shared.testing import lab_keys

    other = Lab(lab_keys.ensure(tmp_path_factory.mktemp("other")))
    assert_problem(await client.get("/api/v1/accounts", headers=other.headers("alice")), 401, "unauthorized")


async def test_other_peoples_accounts_are_not_there(client: httpx.AsyncClient, lab: Lab):
    alices = await opened(client, 100)
    bob = lab.headers("bob")
    money = {"amount": 1, "currency": "USD"}
    assert_problem(await client.get(f"/api/v1/accounts/{alices}", headers=bob), 404, "not-found")
    for action in ("deposits", "withdrawals", "holds"):
        answer = await client.post(f"/api/v1/accounts/{alices}/{action}", json=money, headers={**bob, **keyed()})
        assert_problem(answer, 404, "not-found")
    hold = (await client.post(f"/api/v1/accounts/{alices}/holds", json=money, headers=keyed())).json()["id"]
    for action in ("captures", "voids"):
        answer = await client.post(f"/api/v1/holds/{hold}/{action}", headers={**bob, **keyed()})
        assert_problem(answer, 404, "not-found")
    assert (await client.get("/api/v1/accounts", headers=bob)).json()["items"] == []


async def test_a_deposit_needs_the_cash_desk(client: httpx.AsyncClient, lab: Lab):
    alices = await opened(client)
    token = forged(lab, scope="something-else")
    answer = await client.post(
        f"/api/v1/accounts/{alices}/deposits",
        json={"amount": 1, "currency": "USD"},
        headers={"Authorization": f"Bearer {token}", **keyed()},
    )
    assert_problem(answer, 403, "forbidden")


async def test_pages_of_accounts(client: httpx.AsyncClient):
    ids = [await opened(client) for _ in range(5)]
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


async def test_errors_and_ids_without_exception(client: httpx.AsyncClient, application: Service, monkeypatch):
    assert_problem(await client.get("/nowhere"), 404, "not-found")
    assert_problem(await client.get("/api/v1/accounts/not-a-uuid"), 404, "not-found")
    refused = await client.delete("/api/v1/accounts")
    assert_problem(refused, 405, "method-not-allowed")
    assert refused.headers["allow"]
    answer = await client.get("/api/v1/accounts", headers={"X-Request-ID": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    answer = await client.get("/api/v1/accounts", headers={"X-Request-ID": "bad id\n"})
    assert answer.headers["x-request-id"] != "bad id\n"

    async def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("secret detail")

    async def gone(*_arguments: object) -> None:
        raise ConnectionRefusedError("database")

    state = application.app.state
    for target, method in ((state.queries, "accounts"), (state.service, "execute")):
        monkeypatch.setattr(target, method, broken)
    assert "secret" not in json.dumps(assert_problem(await client.get("/api/v1/accounts"), 500, "internal-error"))
    answer = await client.post("/api/v1/accounts", json={"currency": "USD"}, headers=keyed())
    assert_problem(answer, 500, "internal-error")
    for target, method in ((state.queries, "accounts"), (state.service, "execute")):
        monkeypatch.setattr(target, method, gone)
    assert_problem(await client.get("/api/v1/accounts"), 503, "unavailable")
    answer = await client.post("/api/v1/accounts", json={"currency": "USD"}, headers=keyed())
    assert_problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "1"


async def test_internal_paths_need_the_services_token(client: httpx.AsyncClient, lab: Lab):
    account = await opened(client, 70)
    own = {"Authorization": f"Bearer {lab.service_token}"}
    for path in ("/internal/events?after=0", "/internal/balances", f"/internal/seqs?account_id={account}"):
        assert_problem(await client.get(path), 401, "unauthorized")
    balances = (await client.get("/internal/balances", headers=own)).json()
    assert {item["id"]: item["balance"] for item in balances["items"]}[account] == 70
    types: list[str] = []
    after = "0"
    while len(types) < 2:
        events = await client.get(f"/internal/events?after={after}&limit=1&wait=5", headers=own)
        assert events.headers["content-type"] == "application/cloudevents-batch+json"
        assert len(events.json()) == 1
        types += [event["type"] for event in events.json()]
        after = events.headers["x-next-position"]
    assert types == ["bank.account.opened", "bank.entry.posted"]
    assert_problem(await client.get("/internal/events?after=-1", headers=own), 422, "validation-failed")


async def test_the_history_asks_how_far_accounts_go(
    client: httpx.AsyncClient, lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    account, other = await opened(client, 70), await opened(client, 0)
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
    # An empty owner would be that of the cash accounts.
    for wrong in ({}, {"owner": ""}, {"account_id": "1"}, {"owner": "alice", "account_id": account}, {"who": "alice"}):
        assert_problem(await asked(**wrong), 422, "validation-failed")


async def test_health_metrics_and_documentation(client: httpx.AsyncClient, application: Service):
    await opened(client, 10)
    ready = await client.get("/health/ready")
    assert ready.json()["checks"]["database"] == "ok" and (await client.get("/health/live")).status_code == 200
    metrics = (await client.get("/metrics")).text
    assert 'bank_transactions_total{currency="USD",service="account-service",status="posted"' in metrics
    assert 'http_requests_total{handler="/api/v1/accounts/{id}/deposits",method="POST"' in metrics
    assert re.search(
        r'http_requests_total\{handler="/api/v1/accounts",method="POST"[^}]*status="503"[^}]*\} \d', metrics
    )
    assert "bank_group_commit_batch_size_bucket" in metrics and "bank_ledger_imbalance" in metrics
    checked = re.search(r'bank_check_completed_timestamp_seconds\{check="ledger"[^}]*\} (\S+)', metrics)
    assert checked is not None and 0 <= time.time() - float(checked[1]) < 60
    page = await client.get("/docs/account-service/")
    assert "assets/swagger-ui-bundle.js" in page.text and "https://" not in page.text
    assert (await client.get("/docs/account-service/assets/swagger-ui-bundle.js")).status_code == 200
    assert (await client.get("/docs/account-service")).status_code == 307
    paths = (await client.get("/docs/account-service/openapi.json")).json()["paths"]
    assert "/api/v1/transfers:batch" in paths and "requestBody" in paths["/api/v1/transfers"]["post"]

    relay = next(task for task in application.app.state.runtime.tasks if task.get_name() == "relay")
    relay.cancel()
    await asyncio.wait([relay])
    answer = await client.get("/health/ready")
    assert assert_problem(answer, 503, "unavailable")["errors"][0]["pointer"] == "/checks/relay"
