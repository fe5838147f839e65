"""Requests that could mean something else than their sender thought are refused, and no request costs much."""

import json
import uuid

import httpx
import pytest

from shared.testing.fixtures import Lab, assert_nothing_is_ignored
from shared.http.web import Service
from tests.support import keyed
from tests.test_api import assert_problem, opened

TRANSFERS, BATCH = "/api/v1/transfers", "/api/v1/transfers:batch"


async def test_nothing_that_a_client_sends_is_ignored(application: Service, lab: Lab) -> None:
    await assert_nothing_is_ignored(application, lab)


async def test_two_keys_in_whatever_order_pay_nothing(client: httpx.AsyncClient) -> None:
    source, target = await opened(client, 100), await opened(client)
    body = {"from_account": source, "to_account": target, "amount": 1, "currency": "USD"}
    for keys in (["a", "b"], ["b", "a"], ["a", "a"], ["a, b"], ['"a", "b"']):
        headers = [("Idempotency-Key", key) for key in keys]
        assert (await client.post(TRANSFERS, json=body, headers=headers)).status_code == 400
    assert (await client.get(f"/api/v1/accounts/{source}")).json()["balance"] == 100


@pytest.mark.parametrize("path", [TRANSFERS, BATCH])
@pytest.mark.parametrize("second", ['"amount": 90000', r'"amoun\u0074": 90000', '"amount": 100'])
async def test_an_amount_that_is_given_twice_moves_nothing(client: httpx.AsyncClient, path: str, second: str) -> None:
    source, target = await opened(client, 100_000), await opened(client)
    item = {"from_account": source, "to_account": target, "currency": "USD", "reference": "a: b", "amount": 100}
    text = json.dumps(item if path == TRANSFERS else {"transfers": [{"key": uuid.uuid4().hex, **item}]})
    text = text.replace('"amount": 100', f'"amount": 100, {second}')
    assert_problem(await client.post(path, content=text, headers=keyed()), 400, "malformed-request")
    assert (await client.get(f"/api/v1/accounts/{source}")).json()["balance"] == 100_000


async def test_the_letter_case_of_ids_makes_no_other_request(client: httpx.AsyncClient) -> None:
    source, target = await opened(client, 100), await opened(client)
    key = keyed()
    for change in (str.lower, str.upper):
        body = {"from_account": change(source), "to_account": change(target), "amount": 1, "currency": "USD"}
        paid = await client.post(TRANSFERS, json=body, headers=key)
        assert paid.status_code == 201 and paid.json()["from_account"] == source
    assert paid.headers["idempotent-replayed"] == "true"
    key, money = keyed(), {"amount": 1, "currency": "USD"}
    for change in (str.lower, str.upper):
        taken = await client.post(f"/api/v1/accounts/{change(source)}/withdrawals", json=money, headers=key)
        assert taken.status_code == 201
    assert taken.headers["idempotent-replayed"] == "true"
    for form in (source.replace("-", ""), f"{{{source}}}", f"urn:uuid:{source}", f"{source}%0a"):
        assert_problem(await client.get(f"/api/v1/accounts/{form}"), 404, "not-found")
        body = {"from_account": form, "to_account": target, "amount": 1, "currency": "USD"}
        assert_problem(await client.post(TRANSFERS, json=body, headers=keyed()), 422, "validation-failed")


async def test_an_empty_cursor_is_the_first_page(client: httpx.AsyncClient) -> None:
    await opened(client)
    listed = await client.get("/api/v1/accounts?cursor=")
    assert listed.status_code == 200 and listed.json() == (await client.get("/api/v1/accounts")).json()


@pytest.mark.parametrize("path", [TRANSFERS, BATCH, "/api/v1/accounts", "/api/v1/reversals"])
async def test_unknown_fields_by_the_thousand_get_a_short_answer(client: httpx.AsyncClient, path: str) -> None:
    fields = ",".join(f'"{n:05}":1' for n in range(90_000))
    for content in ("{%s}" % fields, '{"transfers":[{%s}]}' % fields, '{"transfers":[%s]}' % ",".join(["{}"] * 9000)):
        answer = await client.post(path, content=content, headers=keyed())
        assert_problem(answer, 422, "validation-failed")
        assert len(answer.content) < 8000


async def test_the_type_of_a_problem_is_the_address_of_its_page(client: httpx.AsyncClient) -> None:
    problem = assert_problem(await client.get("/nowhere"), 404, "not-found")
    page = await client.get(problem["type"])
    assert (page.status_code, page.headers["content-type"]) == (200, "text/markdown; charset=utf-8")
    assert "What to do" in page.text
    browser = await client.get(problem["type"], headers={"Accept": "text/html,*/*;q=0.8"})
    assert browser.headers["content-type"] == "text/html; charset=utf-8" and "<title>" in browser.text
    assert_problem(await client.get("/problems/unknown"), 404, "not-found")
