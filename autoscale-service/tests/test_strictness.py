"""Ambiguous requests are rejected."""

import httpx
import pytest

from shared.testing.fixtures import Lab, assert_nothing_is_ignored
from shared.http.web import Service
from tests.test_api import HOOK


async def test_unknown_input_is_rejected(application: Service, lab: Lab) -> None:
    await assert_nothing_is_ignored(application, lab)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"version": "4", "version": "4"}', 400),
        (rb'{"alerts": [{"labels": {"service": "a", "servic\u0065": "b"}}]}', 400),
        (b'{"alerts": [' + b",".join([b"{}"] * 60_000) + b"]}", 422),
        (b"{" + b",".join(b'"%05d":1' % n for n in range(25_000)) + b"}", 422),
        (b"[" * 200_000, 400),
    ],
)
async def test_ambiguous_webhooks_are_rejected(client: httpx.AsyncClient, content: bytes, status: int) -> None:
    response = await client.post(HOOK, content=content)
    assert response.status_code == status and len(response.content) < 8000


async def test_pause_accepts_no_body(client: httpx.AsyncClient, lab: Lab) -> None:
    refused = await client.post("/pause", json={"service": "account-service"}, headers=lab.operator())
    assert refused.status_code == 422
    assert (await client.get("/status")).json()["paused"] is None
