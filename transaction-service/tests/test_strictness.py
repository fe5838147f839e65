"""Ambiguous requests are rejected."""

import httpx
import pytest

from shared.ids import new_id
from shared.testing.fixtures import Lab, assert_nothing_is_ignored
from shared.http.web import Service


async def test_unknown_input_is_rejected(application: Service, lab: Lab) -> None:
    await assert_nothing_is_ignored(application, lab)


async def test_an_empty_cursor_is_the_first_page_and_an_empty_filter_is_rejected(client: httpx.AsyncClient) -> None:
    first = await client.get("/api/v1/transactions?cursor=")
    assert first.status_code == 200 and first.json() == (await client.get("/api/v1/transactions")).json()
    for name in ("account_id", "type", "from", "to", "limit"):
        refused = await client.get(f"/api/v1/transactions?{name}=")
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, f"/query/{name}")


@pytest.mark.parametrize("form", [str.upper, lambda one: one.replace("-", ""), "{{{}}}".format, "urn:uuid:{}".format])
async def test_ids_are_normalized_in_path_and_query(client: httpx.AsyncClient, form) -> None:
    account = form(new_id())
    in_path = await client.get(f"/api/v1/statements/{account}")
    in_query = await client.get("/api/v1/transactions", params={"account_id": account})
    assert in_path.status_code == 404
    # Case-insensitive: here the account does not exist.
    assert in_query.status_code == (404 if form is str.upper else 422)
