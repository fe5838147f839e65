"""Requests made to be misunderstood: what NGINX passes on means one thing, or is not passed on at all."""

import json
import posixpath
import re
import uuid
from collections.abc import Iterator
from urllib.parse import unquote

import pytest
from harness.edge import Edge, running_edge, statuses
from hypothesis import given, settings
from hypothesis import strategies as st
from harness.client import eventually

from shared.testing.documents import documented_paths
from shared.testing.fixtures import SEARCH_FACTOR, examples

SERVICES = ("account-service", "transaction-service")
# The first segment of each operation: accounts, transfers, transfers:batch, …
SEGMENTS = {path.split("/")[3] for service in SERVICES for path in documented_paths(service)}
ROUTED = re.compile(
    rf"/api/v1/({'|'.join(SEGMENTS)})(/.*)?|/docs/({'|'.join(SERVICES)})/.*|/problems/[a-z-]+", re.DOTALL
)
HIDDEN = "GET /internal/events HTTP/1.1\r\nHost: bank\r\n\r\n"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """NGINX with its defaults."""
    with running_edge(tmp_path_factory.mktemp("edge") / "nginx") as edge:
        yield edge


def post(*headers: str, body: str = "") -> bytes:
    """Return a POST with these headers as they are."""
    head = "\r\n".join(["POST /api/v1/transfers HTTP/1.1", "Host: bank", *headers])
    return f"{head}\r\n\r\n{body}".encode("latin-1")


SMUGGLED = {
    "CL.TE": post(f"Content-Length: {5 + len(HIDDEN)}", "Transfer-Encoding: chunked", body=f"0\r\n\r\n{HIDDEN}"),
    "TE.CL": post("Transfer-Encoding: chunked", "Content-Length: 4", body=f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n0\r\n\r\n"),
    "TE.TE, one unknown": post("Transfer-Encoding: chunked", "Transfer-Encoding: x", body=f"0\r\n\r\n{HIDDEN}"),
    "TE.TE, both known": post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=f"0\r\n\r\n{HIDDEN}"),
    "TE unknown": post("Transfer-Encoding: xchunked", body=HIDDEN),
    "TE with identity": post("Transfer-Encoding: chunked, identity", body=f"0\r\n\r\n{HIDDEN}"),
    "TE with a space before the colon": post("Transfer-Encoding : chunked", "Content-Length: 0", body=HIDDEN),
    "TE behind a vertical tab": post("Transfer-Encoding: \vchunked", "Content-Length: 0", body=HIDDEN),
    "TE folded": post("Transfer-Encoding:\r\n chunked", "Content-Length: 0", body=HIDDEN),
    "TE in HTTP/1.0": post("Transfer-Encoding: chunked", body=f"0\r\n\r\n{HIDDEN}").replace(b"1.1", b"1.0", 1),
    "two lengths": post("Content-Length: 0", f"Content-Length: {len(HIDDEN)}", body=HIDDEN),
    "the same length twice": post("Content-Length: 0", "Content-Length: 0", body=HIDDEN),
    "two lengths in one": post(f"Content-Length: 0, {len(HIDDEN)}", body=HIDDEN),
    "a signed length": post("Content-Length: +0", body=HIDDEN),
    "a negative length": post("Content-Length: -1", body=HIDDEN),
    "a hexadecimal length": post("Content-Length: 0x0", body=HIDDEN),
    "a length too large to count": post(f"Content-Length: {2**64}", body=HIDDEN),
    "a chunk too large to count": post("Transfer-Encoding: chunked", body=f"{'f' * 17}0\r\n\r\n{HIDDEN}"),
    "a chunk without its end": post("Transfer-Encoding: chunked", body=f"1\r\nxx0\r\n\r\n{HIDDEN}"),
    "a folded header": post("X-One: a\r\n  X-Two: b", "Content-Length: 0"),
    "a header without a colon": post("nonsense", "Content-Length: 0"),
    "NUL in a header": post("X-One: a\0b", "Content-Length: 0"),
    "two hosts": post("Host: other", "Content-Length: 0"),
}
# Their bodies end before the hidden request, beyond doubt: it is a request of its own, and gets an answer of its own.
PIPELINED = {
    "a request after another": post("Content-Length: 0", body=HIDDEN),
    "a request after chunks": post("Transfer-Encoding: chunked", body=f"1\r\nx\r\n0\r\n\r\n{HIDDEN}"),
    "lines that end with LF": post("Content-Length: 0", body=HIDDEN).replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("name", [*SMUGGLED, *PIPELINED])
def test_requests_cannot_be_smuggled(edge: Edge, name: str) -> None:
    request = {**SMUGGLED, **PIPELINED}[name]
    edge.upstream.received.clear()
    response = edge.send(request, expected=2 if name in PIPELINED else 1)
    assert edge.upstream.broken == [], "the upstream got what has more than one meaning"
    assert all(request.target == "/api/v1/transfers" for request in edge.upstream.received), edge.upstream.received
    assert all(HIDDEN.encode() not in request.body for request in edge.upstream.received)
    if name in PIPELINED:
        assert statuses(response) == [201, 404]
    else:
        # Refused, or understood without its strange part; never answered twice as if it were two.
        assert statuses(response)[0] in (201, 400, 413, 501), response
        assert statuses(response)[1:] in ([], [404], [400]), response


@pytest.mark.parametrize(
    "name", [name for name in SMUGGLED if name.startswith(("CL", "TE.", "two", "the same", "a signed", "NUL"))]
)
def test_ambiguous_requests_are_rejected(edge: Edge, name: str) -> None:
    edge.upstream.received.clear()
    response = edge.send(SMUGGLED[name])
    assert statuses(response) in ([400], [501]) and "application/problem+json" in response, response
    assert edge.upstream.received == []


def test_forwarding_headers_of_clients_are_replaced(edge: Edge) -> None:
    forged = ("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6")
    edge.get("/api/v1/accounts", *forged, "X-Forwarded-Host: evil", "X-Forwarded-For: 7.7.7.7")
    headers = edge.last().headers
    assert headers["x-forwarded-for"] == ["127.0.0.1"] and headers["x-forwarded-proto"] == ["http"]
    assert "6.6.6.6" not in str(headers) and "evil" not in str(headers)


def test_hop_by_hop_headers_are_not_forwarded_and_remove_no_others(edge: Edge) -> None:
    lines = [
        "Authorization: Bearer x",
        "X-Request-ID: mine",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
        "TE: trailers",
    ]
    request = ["GET /api/v1/accounts HTTP/1.1", "Host: bank", *lines]
    request += ["Connection: close, Upgrade, Authorization, X-Request-ID, X-Forwarded-For", "Keep-Alive: 5", "", ""]
    assert statuses(edge.send("\r\n".join(request).encode())) == [201]
    headers = edge.last().headers
    assert headers["authorization"] == ["Bearer x"] and headers["x-request-id"] == ["mine"]
    assert headers["x-forwarded-for"] == ["127.0.0.1"]
    assert not headers.keys() & {"connection", "upgrade", "http2-settings", "te", "keep-alive"}


def test_underscores_in_header_names_are_not_dashes(edge: Edge) -> None:
    edge.get("/api/v1/accounts", "Idempotency_Key: k", "X_Request_ID: forged", "Authorization_: x", "X Canary: always")
    headers = edge.last().headers
    assert not headers.keys() & {"idempotency_key", "x_request_id", "authorization_", "x canary"}
    assert headers["x-request-id"] != ["forged"] and len(headers["x-request-id"]) == 1


@pytest.mark.parametrize("forged", ["a b", "x" * 129, '"}', "a\x1b[31m", "é", "${jndi:x}"])
def test_an_id_that_could_break_a_log_is_replaced(edge: Edge, forged: str) -> None:
    response = edge.get("/api/v1/accounts", f"X-Request-ID: {forged}")
    (given,) = edge.last().headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", given) and f"X-Request-ID: {given}\r\n" in response


@pytest.mark.parametrize(
    "target",
    [
        *("http://bank/internal/events", "http://bank//internal/events", "http://bank/api/v1/accounts/../../internal"),
        *("http://bank:80/metrics", "https://internal/health/ready", "HTTP://BANK/api/v1/../metrics"),
        *("/api/v1/accounts/..;/..;/internal", "/api/v1/accounts;/../../metrics", "/api/v1/accounts/%2e%2e/x"),
        *("/api/v1/accounts/.%2e/x", "/api/v1/accounts\\..\\..\\metrics", "/api/v1/accounts/%5c../x", "/./metrics"),
        *("/api/v1/accounts/%00", "/api/v1/%61ccounts/%252e%252e/x", "/%61pi/v1/accounts/../../metrics", "*"),
        *("/api/v1/accounts//../../metrics", "/docs/account-service/..%2f..%2fmetrics", "/metrics?/api/v1/accounts"),
        *("/health/ready#/api/v1/accounts", "/api/v1/accounts/%c0%ae%c0%ae/%c0%af", "/internal/../internal/events"),
        *(
            "/metrics/",
            "/metrics%20",
            "/metrics%09",
            "/METRICS",
            "//metrics",
            "/health",
            "/internal",
            "/webhook/autoscale",
        ),
    ],
)
def test_ambiguous_paths_are_not_routed(edge: Edge, target: str) -> None:
    edge.upstream.received.clear()
    response = edge.get(target)
    for request in edge.upstream.received:
        assert_leads_to_the_api(request.target)
    assert statuses(response) == [404] or statuses(response) == [400] or edge.upstream.received, response


def assert_leads_to_the_api(target: str) -> None:
    """Fail unless the path stays below what is routed, however often and by whomever it is decoded and tidied."""
    path = target.split("?", 1)[0].split("#", 1)[0]
    for _ in range(3):
        for reading in (path, path.replace("\\", "/"), re.sub(r";[^/]*", "", path)):
            tidied = posixpath.normpath(reading) + ("/" if reading.endswith("/") else "")
            assert ROUTED.fullmatch(tidied) and "\0" not in tidied, target
        path = unquote(path)


PIECES = st.sampled_from(
    [
        *("/", "//", "/./", "/../", "..", ".", "%2e", "%2E", "%2f", "%2F", "\\", "%5c", ";", ";x=1", "%00", "?", "#"),
        *("%252e", "%25", "%c0%ae", "%20", "%0d%0a", "\t", "internal", "metrics", "health", "/api/v1/accounts"),
        *(
            "/api/v1/",
            "transfers:batch",
            "/docs/account-service/",
            "accounts",
            "events",
            "http://bank",
            ":",
            "%3a",
            "~",
        ),
    ]
)


@pytest.mark.timeout(900 * SEARCH_FACTOR)
@settings(max_examples=examples(400), deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=8).map("".join), st.sampled_from(["", "/api/v1/accounts", "/"]))
def test_no_path_escapes_the_api(edge: Edge, path: str, start: str) -> None:
    edge.upstream.received.clear()
    edge.get(start + path)
    assert edge.upstream.broken == []
    for request in edge.upstream.received:
        assert_leads_to_the_api(request.target)


@pytest.mark.parametrize(
    "target", ["/api/v1/accounts", '/api/v1/accounts/","status":200,"forged":"x', "/api/v1/a%0d%0a{}"]
)
def test_every_request_is_one_json_log_line(edge: Edge, target: str) -> None:
    log = edge.folder / "access.log"
    marker = uuid.uuid4().hex
    evil = f'{marker}","status":200,"forged":"\x1b[31m\t\\","'
    edge.get(target, *(f"{name}: {evil}" for name in ("User-Agent", "X-Request-ID", "traceparent", "X-Canary")))
    # Lines of earlier requests may still arrive.
    lines = eventually(
        lambda: marker in (text := log.read_text("utf-8")) and text.endswith("\n") and text.split("\n")[:-1]
    )
    entries = [json.loads(line) for line in lines]
    assert not any(re.search(r"[\x00-\x1f]", line) for line in lines)
    assert all("forged" not in entry and "path" in entry for entry in entries)
    assert [entry["path"] for entry in entries if entry["user_agent"] == evil] == [target]


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Client-ID", "X-Canary", "Accept", "Content-Type"])
def test_a_repeated_header_reaches_the_service_as_it_was_sent(edge: Edge, name: str) -> None:
    # So that the service refuses it: a joined or a dropped value would decide silently.
    response = edge.send(post(f"{name}: one", f"{name}: two", "Content-Length: 0"))
    if statuses(response) == [201]:
        assert edge.last().headers[name.lower()] == ["one", "two"]
    else:
        assert statuses(response) == [400]


@pytest.mark.parametrize("name", ["X-Request-ID", "traceparent"])
def test_joined_headers_that_would_be_replaced_are_rejected(edge: Edge, name: str) -> None:
    assert statuses(edge.send(post(f"{name}: one, two", "Content-Length: 0"))) == [400]


def test_only_problem_pages_are_routed(edge: Edge) -> None:
    assert '"target": "/problems/not-found"' in edge.get("/problems/not-found")
    for path in (
        "/problems",
        "/problems/",
        "/problems/a/b",
        "/problems/x/../y",
        "/problems/%2e%2e/metrics",
        "/errors/not-found",
    ):
        assert statuses(edge.get(path)) == [404], path
