"""Ambiguous requests are rejected, and no request is expensive."""

import json
import uuid

import httpx
import pytest

from shared.testing.fixtures import Lab, assert_nothing_is_ignored
from shared.http.web import Service
from tests.support import key_header
from tests.test_api import assert_problem, create_account

TRANSFERS, BATCH = "/api/v1/transfers", "/api/v1/transfers:batch"


async def test_unknown_input_is_rejected(application: Service, lab: Lab) -> None:
    await assert_nothing_is_ignored(application, lab)


async def test_repeated_idempotency_keys_are_rejected(client: httpx.AsyncClient) -> None:
    source, target = await create_account(client, 100), await create_account(client)
    body = {"from_account": source, "to_account": target, "amount": 1, "currency": "USD"}
    for keys in (["a", "b"], ["b", "a"], ["a", "a"], ["a, b"], ['"a", "b"']):
        headers = [("Idempotency-Key", key) for key in keys]
        assert (await client.post(TRANSFERS, json=body, headers=headers)).status_code == 400
    assert (await client.get(f"/api/v1/accounts/{source}")).json()["balance"] == 100


@pytest.mark.parametrize("path", [TRANSFERS, BATCH])
@pytest.mark.parametrize("second", ['"amount": 90000', r'"amoun\u0074": 90000', '"amount": 100'])
async def test_a_repeated_amount_is_rejected(client: httpx.AsyncClient, path: str, second: str) -> None:
    source, target = await create_account(client, 100_000), await create_account(client)
    item = {"from_account": source, "to_account": target, "currency": "USD", "reference": "a: b", "amount": 100}
    text = json.dumps(item if path == TRANSFERS else {"transfers": [{"key": uuid.uuid4().hex, **item}]})
    text = text.replace('"amount": 100', f'"amount": 100, {second}')
    assert_problem(await client.post(path, content=text, headers=key_header()), 400, "malformed-request")
    assert (await client.get(f"/api/v1/accounts/{source}")).json()["balance"] == 100_000


async def test_ids_are_not_case_sensitive(client: httpx.AsyncClient) -> None:
    source, target = await create_account(client, 100), await create_account(client)
    key = key_header()
    for change in (str.lower, str.upper):
        body = {"from_account": change(source), "to_account": change(target), "amount": 1, "currency": "USD"}
        paid = await client.post(TRANSFERS, json=body, headers=key)
        assert paid.status_code == 201 and paid.json()["from_account"] == source
    assert paid.headers["idempotent-replayed"] == "true"
    key, money = key_header(), {"amount": 1, "currency": "USD"}
    for change in (str.lower, str.upper):
        withdrawn = await client.post(f"/api/v1/accounts/{change(source)}/withdrawals", json=money, headers=key)
        assert withdrawn.status_code == 201
    assert withdrawn.headers["idempotent-replayed"] == "true"
    for form in (source.replace("-", ""), f"{{{source}}}", f"urn:uuid:{source}", f"{source}%0a"):
        assert_problem(await client.get(f"/api/v1/accounts/{form}"), 404, "not-found")
        body = {"from_account": form, "to_account": target, "amount": 1, "currency": "USD"}
        assert_problem(await client.post(TRANSFERS, json=body, headers=key_header()), 422, "validation-failed")


async def test_an_empty_cursor_is_the_first_page(client: httpx.AsyncClient) -> None:
    await create_account(client)
    listed = await client.get("/api/v1/accounts?cursor=")
    assert listed.status_code == 200 and listed.json() == (await client.get("/api/v1/accounts")).json()


@pytest.mark.parametrize("path", [TRANSFERS, BATCH, "/api/v1/accounts", "/api/v1/reversals"])
async def test_thousands_of_unknown_fields_get_a_short_response(client: httpx.AsyncClient, path: str) -> None:
    fields = ",".join(f'"{n:05}":1' for n in range(90_000))
    for content in ("{%s}" % fields, '{"transfers":[{%s}]}' % fields, '{"transfers":[%s]}' % ",".join(["{}"] * 9000)):
        response = await client.post(path, content=content, headers=key_header())
        assert_problem(response, 422, "validation-failed")
        assert len(response.content) < 8000


async def test_problem_types_are_paths_of_their_pages(client: httpx.AsyncClient) -> None:
    problem = assert_problem(await client.get("/nowhere"), 404, "not-found")
    page = await client.get(problem["type"])
    assert (page.status_code, page.headers["content-type"]) == (200, "text/markdown; charset=utf-8")
    assert "What to do" in page.text
    browser = await client.get(problem["type"], headers={"Accept": "text/html,*/*;q=0.8"})
    assert browser.headers["content-type"] == "text/html; charset=utf-8" and "<title>" in browser.text
    assert_problem(await client.get("/problems/unknown"), 404, "not-found")
