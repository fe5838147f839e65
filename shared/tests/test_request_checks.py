"""Checks of every request, on all routes."""

from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Query
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route

from shared.http import idempotency, request_checks
from shared.http.problems import Problem

SINGLE = [
    *("idempotency-key", "authorization", "content-type", "content-length", "content-encoding", "accept", "host"),
    *("x-request-id", "traceparent", "x-client-id", "x-canary", "user-agent", "x-grafana-alerting-signature"),
]


def check_headers(*lines: tuple[str, str]) -> None:
    raw = [(name.encode(), value.encode()) for name, value in lines]
    request_checks.check_headers(raw, dict(raw))


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("values", [("a", "b"), ("a", "a"), ("", "a")])
def test_repeated_single_valued_header_is_rejected(name: str, values: tuple[str, str]) -> None:
    check_headers(("x-other", "1"), (name, values[0]))
    with pytest.raises(Problem) as caught:
        check_headers((name, values[0]), ("x-other", "1"), (name, values[1]))
    assert (caught.value.status, name in caught.value.detail) == (400, True)


def test_list_valued_headers_may_be_repeated() -> None:
    check_headers(("accept-encoding", "gzip"), ("accept-encoding", "br"), ("via", "a"), ("via", "b"))
    with pytest.raises(Problem):
        check_headers(("via", "a"), ("via", "b"), ("authorization", "a"), ("authorization", "a"))


@pytest.mark.parametrize("header", ["a, b", "a,b", ",a", "a,", '"a", "b"', '"a","b"'])
def test_idempotency_keys_joined_by_a_proxy_are_rejected(header: str) -> None:
    with pytest.raises(Problem) as caught:
        idempotency.parse_key(header)
    assert caught.value.code == "idempotency-key-missing"


def test_quoted_idempotency_key_may_contain_a_comma() -> None:
    assert idempotency.parse_key('"a, b"') == "a, b"


def content_of(**headers: str) -> dict[bytes, bytes]:
    return {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}


@pytest.mark.parametrize(
    "media_type",
    ["application/json", "Application/JSON; Charset=UTF-8", 'application/json ; charset="utf-8"', None],
)
def test_plain_json_is_accepted(media_type: str | None) -> None:
    given_type = {} if media_type is None else {"content_type": media_type}
    request_checks.check_content(content_of(content_length="2", content_encoding="identity", **given_type))


@pytest.mark.parametrize(
    "media_type",
    [
        *(
            "text/plain",
            "application/x-www-form-urlencoded",
            "text/json",
            "application/jsonp",
            "application/problem+json",
        ),
        *(
            "",
            ";",
            "*/*",
            "application/json; charset=latin-1",
            "application/json; charset=utf-16",
            "application/json;q=1",
        ),
        *("application/json; charset=utf-8; charset=utf-8", "application/json, text/plain", "multipart/form-data"),
    ],
)
@pytest.mark.parametrize("length", [{"content_length": "2"}, {"transfer_encoding": "chunked"}])
def test_other_content_types_are_rejected(media_type: str, length: dict[str, str]) -> None:
    with pytest.raises(Problem) as caught:
        request_checks.check_content(content_of(content_type=media_type, **length))
    assert (caught.value.status, caught.value.headers) == (415, {"Accept": "application/json"})
    request_checks.check_content(content_of(content_type=media_type, content_length="0"))


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "identity, gzip", "", "x"])
def test_content_codings_are_rejected(coding: str) -> None:
    with pytest.raises(Problem) as caught:
        request_checks.check_content(content_of(content_encoding=coding, content_length="2"))
    assert (caught.value.status, caught.value.headers) == (415, {"Accept-Encoding": "identity"})


KNOWN = ("limit", "cursor", "from")


@pytest.mark.parametrize(
    ("query", "pointers"),
    [
        ("limit=1&cursor=a&from=b", []),
        ("curser=a", ["/query/curser"]),
        ("Limit=1", ["/query/Limit"]),
        ("limit=1&limit=1", ["/query/limit"]),
        ("limit=1&%6cimit=2", ["/query/limit"]),
        ("limit=1&x=1&y=", ["/query/x", "/query/y"]),
        ("limit[]=1", ["/query/limit[]"]),
        ("=1", ["/query/"]),
        ("limit", []),
        ("&&", []),
        ("limit=1;cursor=a", []),  # a semicolon is not a separator: the route rejects the limit
        ("%ff=1", ["/query/\ufffd"]),
        ("&".join(["limit=1"] * 51), ["/query"]),
    ],
)
def test_unknown_and_repeated_parameters_are_rejected(query: str, pointers: list[str]) -> None:
    try:
        request_checks.check_query(query.encode(), KNOWN)
        found = []
    except Problem as problem:
        assert problem.code == "validation-failed"
        found = [error["pointer"] for error in problem.errors]
    assert found == pointers


def test_rejected_query_lists_supported_parameters() -> None:
    for known, told in ((KNOWN, "limit, cursor, from"), ((), "none")):
        with pytest.raises(Problem) as caught:
            request_checks.check_query(b"x=1", known)
        assert told in caught.value.errors[0]["detail"]
    with pytest.raises(Problem) as caught:
        request_checks.check_query(b"x" * 5000 + b"=1", KNOWN)
    assert len(caught.value.errors[0]["pointer"]) < 200


@given(st.binary(max_size=60))
def test_any_query_is_accepted_or_rejected(query: bytes) -> None:
    try:
        request_checks.check_query(query, KNOWN)
    except Problem as problem:
        assert problem.code == "validation-failed"


def test_target_and_headers_are_limited() -> None:
    request_checks.check_size(8192, 100)
    for arguments, code in (((8193, 1), "uri-too-long"), ((1, 101), "headers-too-large")):
        with pytest.raises(Problem) as caught:
            request_checks.check_size(*arguments)
        assert caught.value.code == code


def test_parameters_of_dependencies_belong_to_the_route() -> None:
    app = FastAPI()

    def page(limit: int = 1, cursor: str = "") -> tuple[int, str]:
        return limit, cursor

    @app.get("/things")
    def things(_page: Annotated[Any, Depends(page)], start: Annotated[str, Query(alias="from")] = "") -> None:
        """Have its own parameters and those of a dependency."""
        del start

    (route,) = (route for route in app.routes if isinstance(route, APIRoute))
    assert request_checks.query_parameters(route) == ("from", "limit", "cursor")
    assert request_checks.query_parameters(request_checks.QueryRoute("/x", things, "after")) == ("after",)
    assert request_checks.query_parameters(Route("/x", things)) == ()
