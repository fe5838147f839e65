"""Idempotency keys, problems, pagination, ids, health and summary."""

import asyncio
import re
import uuid
from datetime import UTC, datetime, timedelta, timezone

import httpx
import orjson
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from shared.http import health, idempotency, paging, problems, summary
from shared.db.database import ping
from shared.ids import new_id, rfc3339
from shared.http.problems import PROBLEM_TYPES, Problem
from shared.runtime.settings import ProcessSettings
from shared.testing.fixtures import Lab
from shared.testing.timing import StoppedClock, assert_prompt
from shared.http.web import documented_problems

PRINTABLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


@given(PRINTABLE.filter(lambda key: not {'"', ","} & set(key)))
def test_bare_and_quoted_idempotency_keys_are_equal(key: str) -> None:
    assert idempotency.parse_key(key) == idempotency.parse_key(f' "{key}" ') == key


@pytest.mark.parametrize(
    "header", [None, "", " ", '""', ' "" ', "x" * 256, f'"{"x" * 256}"', "a\tb", "a\0b", "schlüssel", "a\nb", "\x7f"]
)
def test_invalid_idempotency_keys_are_rejected(header: str | None) -> None:
    with pytest.raises(Problem) as caught:
        idempotency.parse_key(header)
    assert (caught.value.code, caught.value.status) == ("idempotency-key-missing", 400)


def test_longest_idempotency_keys_are_accepted() -> None:
    assert len(idempotency.parse_key("x" * 255)) == len(idempotency.parse_key(f'"{"x" * 255}"')) == 255


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
CONTENT = st.dictionaries(st.text(max_size=5), JSON, max_size=4)


@given(CONTENT, CONTENT, st.sampled_from(["/a", "/b"]), st.sampled_from(["/a", "/b"]))
def test_request_hash_depends_on_content_but_not_on_field_order(
    one: dict[str, object], other: dict[str, object], path: str, other_path: str
) -> None:
    shuffled = dict(reversed(one.items()))
    assert idempotency.request_hash(path, one) == idempotency.request_hash(path, shuffled)
    same = (path, orjson.dumps(one, option=orjson.OPT_SORT_KEYS)) == (
        other_path,
        orjson.dumps(other, option=orjson.OPT_SORT_KEYS),
    )
    assert (idempotency.request_hash(path, one) == idempotency.request_hash(other_path, other)) == same
    assert len(idempotency.request_hash(path, one)) == 16


CONTRACT = {
    **{"insufficient-funds": 409, "account-frozen": 409, "account-closed": 409, "currency-mismatch": 422},
    **{"same-account": 422, "already-reversed": 409, "not-found": 404, "idempotency-key-missing": 400},
    **{"idempotency-key-reused": 422, "request-in-progress": 409, "unauthorized": 401, "forbidden": 403},
    **{"rate-limited": 429, "unavailable": 503},
}


def test_problem_codes_have_the_documented_statuses() -> None:
    assert {code: PROBLEM_TYPES[code].status for code in CONTRACT} == CONTRACT
    assert all(PROBLEM_TYPES[code].status == status for status, code in problems.CODE_OF_STATUS.items())


@pytest.mark.parametrize("code", PROBLEM_TYPES)
def test_every_problem_type_is_documented_and_has_all_members(code: str) -> None:
    kind = PROBLEM_TYPES[code]
    documentation = documented_problems(kind.status)[kind.status]
    assert kind.title in documentation["description"]
    schema = documentation["content"]["application/problem+json"]["schema"]
    assert code in schema["properties"]["code"]["enum"]
    response = problems.response(Problem(code, "Why.", headers={"Retry-After": "1"}), "/path", "request-1")
    assert (response.status_code, response.media_type) == (kind.status, "application/problem+json")
    assert response.headers["retry-after"] == "1"
    assert orjson.loads(bytes(response.body)) == {
        "type": f"/problems/{code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "Why.",
        "instance": "/path",
        "code": code,
        "request_id": "request-1",
    }
    assert re.fullmatch("[a-z]+(-[a-z]+)*", code)


def test_pointers_are_rfc_6901() -> None:
    class Inner(BaseModel):
        """A body without unknown fields."""

        model_config = ConfigDict(extra="forbid")
        amount: int

    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, list[Inner]]).validate_json('{"a/b": [{"amount": 1}, {"amount": "secret", "m~n/o": 1}]}')
    problem = problems.from_exception(caught.value)
    assert (problem.code, problem.status) == ("validation-failed", 422)
    assert [error["pointer"] for error in problem.errors] == ["/a~1b/1/amount", "/a~1b/1/m~0n~1o"]
    assert "secret" not in str(problem.errors)
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate_json("[]")
    assert [error["pointer"] for error in problems.from_exception(caught.value).errors] == [""]
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate_json("{")
    assert problems.from_exception(caught.value).code == "malformed-request"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HTTPException(404), "not-found"),
        (HTTPException(405, headers={"Allow": "GET"}), "method-not-allowed"),
        (HTTPException(429), "rate-limited"),
        (HTTPException(418), "malformed-request"),
        (HTTPException(502), "unavailable"),
        (RequestValidationError([{"type": "missing", "loc": ("query", "x"), "msg": "m"}]), "validation-failed"),
        (KeyError("secret"), "internal-error"),
    ],
)
def test_exceptions_become_problems(error: Exception, code: str) -> None:
    problem = problems.from_exception(error)
    assert problem.code == code and "secret" not in problem.detail
    if code == "method-not-allowed":
        assert problem.headers["Allow"] == "GET" and "GET" in problem.detail


@given(st.uuids())
def test_cursor_encodes_an_id(last: uuid.UUID) -> None:
    cursor = paging.encode_cursor(str(last))
    assert paging.decode_cursor(cursor) == str(last)
    assert re.fullmatch(r"[\w-]+", cursor), "safe in a URL"


@given(st.text(max_size=30))
def test_invalid_cursors_are_rejected(text: str) -> None:
    try:
        uuid.UUID(paging.decode_cursor(text))
    except Problem as problem:
        assert (problem.code, problem.errors[0]["pointer"]) == ("validation-failed", "/query/cursor")


@pytest.mark.parametrize(("found", "shown", "more"), [(0, 0, False), (2, 2, False), (3, 3, False), (4, 3, True)])
def test_page_has_a_next_cursor_only_if_there_are_more_items(found: int, shown: int, more: bool) -> None:
    items = [{"id": new_id()} for _ in range(found)]
    page = orjson.loads(bytes(paging.page(items, 3).body))
    assert page["items"] == items[:shown]
    assert page["next_cursor"] == (paging.encode_cursor(items[2]["id"]) if more else None)


def test_ids_sort_in_order_of_creation() -> None:
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(made) and len(set(made)) == len(made)
    assert {uuid.UUID(id_).version for id_ in made} == {7}


@given(st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)))
def test_times_are_rfc_3339_and_sort_as_text(moment: datetime) -> None:
    text = rfc3339(moment)
    assert datetime.fromisoformat(text) == moment
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)


def test_times_are_formatted_in_utc() -> None:
    moment = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert rfc3339(moment) == "2025-12-31T23:00:00.000000Z"


async def test_readiness_lists_failed_checks_and_times_out_hanging_ones(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails() -> None:
        raise ConnectionRefusedError("secret address")

    async def hangs() -> None:
        await asyncio.Event().wait()

    async def database() -> None:
        await ping(engine)

    ended = asyncio.create_task(asyncio.sleep(0), name="ended")
    await ended
    lasting = asyncio.create_task(hangs(), name="lasting")
    checks: dict[str, health.Check] = {"database": database, "lasting": health.task_check(lasting)}
    app = Starlette(routes=health.routes(lambda: checks))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["checks"]) == (200, {"database": "ok", "lasting": "ok"})
        checks |= {"fails": fails, "ended": health.task_check(ended)}
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["code"]) == (503, "unavailable")
        assert ready.headers["content-type"] == "application/problem+json" and "secret" not in ready.text
        assert {error["pointer"]: error["detail"] for error in ready.json()["errors"]} == {
            "/checks/fails": "ConnectionRefusedError",
            "/checks/ended": "RuntimeError",
        }
        monkeypatch.setattr(health, "_CHECK_SECONDS", 0.05)
        checks = {"hangs": hangs, "lasting": health.task_check(lasting)}
        with assert_prompt():
            ready = await client.get("/health/ready")
        assert ready.json()["errors"] == [{"pointer": "/checks/hangs", "detail": "TimeoutError"}]
        assert (await client.get("/health/live")).status_code == 200
    lasting.cancel()


async def test_summary_reports_readiness_and_runs_checks_at_most_once_a_second(
    monkeypatch: pytest.MonkeyPatch, lab: Lab
):
    asked, clock = [], StoppedClock()
    fails = False
    monkeypatch.setattr(summary, "time", clock)

    async def database() -> None:
        asked.append(1)
        if fails:
            raise ConnectionRefusedError("secret address")

    settings = ProcessSettings(service="some-service", auth_jwks=str(lab.secrets.jwks), app_version="v7")
    app = Starlette(routes=[summary.route(settings, lambda: {"database": database}, lambda: {"more": len(asked)})])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        responses = await asyncio.gather(*(client.get("/health/summary") for _ in range(50)))
        assert len(asked) == 1 and {response.text for response in responses} == {responses[0].text}
        who = {"service": "some-service", "version": "v7", "track": "stable"}
        assert responses[0].json() == {**who, "ready": True, "failing": [], "more": 1}
        fails = True
        clock.now += 1
        response = await client.get("/health/summary")
        assert (response.status_code, response.json()["failing"]) == (
            200,
            ["database"],
        ) and "secret" not in response.text
