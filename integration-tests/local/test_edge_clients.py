"""How NGINX tells clients apart: for the version they get, for the rate limit and in the log."""

import base64
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from harness.client import eventually
from harness.edge import Edge, running_edge, statuses
from harness.replica import always, running_replica
from hypothesis import given
from hypothesis import strategies as st

from shared.testing.nginx_config import render
from shared.testing.ports import free_port

SERVICES = ("account-service", "transaction-service")
MakeEdge = Callable[..., Edge]


@pytest.fixture
def make_edge(tmp_path: Path) -> Iterator[MakeEdge]:
    """Start NGINX that sends half of the clients to a canary: make_edge(nginx_rate_limit="10r/s", …)."""
    with ExitStack() as stack:
        pools = {one: stack.enter_context(running_replica(one, always(201))).address for one in ("stable", "canary")}

        def make(**variables: Any) -> Edge:
            tracks = {
                "nginx_pools": {name: [pools["stable"]] for name in SERVICES},
                "nginx_canary_pools": {name: [pools["canary"]] for name in SERVICES},
                "nginx_canary_weight": 50,
            }
            return stack.enter_context(running_edge(tmp_path / "nginx", **tracks, **variables))

        yield make


def track(answer: str) -> str:
    """Return the track that responded."""
    found = re.search(r"\r\nX-App-Track: (\w+)\r\n", answer)
    assert found, answer
    return found[1]


def encoded(content: object, separators: tuple[str, str] = (",", ":")) -> str:
    """Return a part of a JWT."""
    text = json.dumps(content, separators=separators).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def token(subject: str, order: list[str], separators: tuple[str, str] = (",", ":")) -> str:
    """Return an Authorization header with a fresh token of a subject."""
    issued = random.randrange(1_700_000_000, 1_900_000_000)
    claims: dict[str, Any] = {
        **{"iss": "https://issuer.example", "aud": "bank", "sub": subject, "scope": "bank:deposit"},
        **{"iat": issued, "exp": issued + 300, "jti": random.randbytes(16).hex()},
    }
    signature = base64.urlsafe_b64encode(random.randbytes(64)).rstrip(b"=").decode()
    parts = (encoded({"alg": "EdDSA", "kid": "1"}), encoded({name: claims[name] for name in order}, separators))
    return f"Bearer {'.'.join(parts)}.{signature}"


CLAIMS = ["iss", "aud", "sub", "scope", "iat", "exp", "jti"]


@pytest.mark.parametrize("order", [CLAIMS, ["exp", "iat", "jti", "iss", "aud", "sub", "scope"], [*CLAIMS[3:], "sub"]])
def test_a_client_keeps_its_version_when_its_token_is_refreshed(make_edge: MakeEdge, order: list[str]) -> None:
    edge = make_edge()
    tracks = {}
    for user in range(20):
        asked = [edge.get("/api/v1/accounts", f"Authorization: {token(f'user-{user}', order)}") for _ in range(6)]
        tracks[user] = {track(response) for response in asked}
    assert all(len(seen) == 1 for seen in tracks.values()), tracks
    assert len(set.union(*tracks.values())) == 2, "users get both versions"


@cache
def subject_pattern() -> re.Pattern[str]:
    """Return the expression by which NGINX finds the subject of a token."""
    pools = {name: ["x"] for name in SERVICES}
    configuration = render(nginx_listen="1", nginx_pools=pools, nginx_canary_pools=pools, nginx_canary_weight=50)
    (pattern,) = re.findall(r'"~(\^\[Bb\]earer .*)" \$subject;', configuration)
    return re.compile(pattern.replace("(?<subject>", "(?P<subject>"), re.ASCII)


def subject_in(authorization: str) -> str:
    """Return the text that NGINX selects the version by."""
    found = subject_pattern().match(authorization)
    return found["subject"] if found else ""


subjects = st.text(st.characters(codec="utf-8", exclude_characters='\\"'), min_size=1, max_size=40)


@given(subjects, subjects, st.permutations(CLAIMS), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_the_subject_alone_is_the_key(one: str, other: str, order: list[str], separators: tuple[str, str]) -> None:
    keys = {subject_in(token(one, order, separators)) for _ in range(3)}
    assert len(keys) == 1, "another token of the same subject has another key"
    if not one.startswith((",", "}")):
        assert keys != {""}
        assert keys != {subject_in(token(other, order, separators))} or one == other


@pytest.mark.parametrize("value", ["", "Basic eDp5", "Bearer x", "Bearer x.y.z", "Bearer a." + "InN1YiI6" * 900])
def test_anything_but_a_token_has_no_subject(make_edge: MakeEdge, value: str) -> None:
    assert subject_in(value) == ""
    edge = make_edge()
    assert len({track(edge.get("/api/v1/accounts", f"Authorization: {value}")) for _ in range(5)}) == 1


def test_a_browser_keeps_its_version_by_a_cookie(make_edge: MakeEdge) -> None:
    edge = make_edge()
    seen = set()
    # All of them get the same version in one of 2^39 runs.
    for _ in range(40):
        first = edge.get("/docs/account-service/")
        (cookie,) = re.findall(r"\r\nSet-Cookie: (cohort=[0-9a-f]{32}); Path=/; HttpOnly; SameSite=Lax\r\n", first)
        again = [edge.get("/docs/account-service/", f"Cookie: {cookie}") for _ in range(3)]
        assert {track(response) for response in again} == {track(first)}
        assert "Set-Cookie" not in "".join(again)
        seen.add(track(first))
    assert seen == {"stable", "canary"}
    assert "Set-Cookie" not in edge.get("/api/v1/accounts")


def test_clients_behind_a_trusted_proxy_are_told_apart(make_edge: MakeEdge) -> None:
    edge = make_edge(
        nginx_trusted_proxies=["127.0.0.1", "10.0.0.0/8"], nginx_rate_limit="1r/m", nginx_rate_limit_burst=2
    )
    clients = [f"X-Forwarded-For: 6.6.6.6, 192.0.2.{n}, 10.1.2.3" for n in range(20)]
    responses = [edge.get("/api/v1/accounts", client) for client in clients]
    assert {tuple(statuses(response)) for response in responses} == {(201,)}, "each has a rate limit of its own"
    assert {track(response) for response in responses} == {"stable", "canary"}
    responses = [edge.get("/api/v1/accounts", clients[0]) for _ in range(4)]
    assert [429] in [statuses(response) for response in responses]
    # What a client claims before the proxy adds its address does not matter; nor what a peer says that is not trusted.
    forged = [edge.get("/api/v1/accounts", f"X-Forwarded-For: 9.9.9.{n}, 192.0.2.0") for n in range(4)]
    assert {tuple(statuses(response)) for response in forged} == {(429,)}
    forged = [edge.get("/api/v1/accounts", f"X-Forwarded-For: 9.9.9.{n}", source="127.0.0.2") for n in range(6)]
    assert [429] in [statuses(response) for response in forged]
    log = edge.folder / "access.log"
    lines = eventually(
        lambda: log.read_text("utf-8").splitlines()[-1:] if "127.0.0.2" in log.read_text("utf-8") else []
    )
    assert json.loads(lines[0])["client"] == "127.0.0.2" and '"client":"192.0.2.19"' in log.read_text("utf-8")


def test_the_proxy_protocol_names_the_client(make_edge: MakeEdge) -> None:
    internal = free_port()
    edge = make_edge(
        nginx_trusted_proxies=["127.0.0.1"],
        nginx_proxy_protocol=True,
        nginx_internal_listen=f"127.0.0.1:{internal}",
        nginx_rate_limit="1r/m",
        nginx_rate_limit_burst=1,
    )
    request = b"GET /api/v1/accounts HTTP/1.1\r\nHost: bank\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: close\r\n\r\n"
    for number in range(5):
        response = edge.send(b"PROXY TCP4 192.0.2.%d 192.0.2.200 5000 443\r\n" % number + request)
        assert statuses(response) == [201]
    responses = [edge.send(b"PROXY TCP4 192.0.2.1 192.0.2.200 5000 443\r\n" + request) for _ in range(3)]
    assert [429] in [statuses(response) for response in responses]
    assert statuses(edge.send(request)) == [], "a client that does not send it gets no response"
    direct = Edge(internal, edge.upstream, edge.folder)
    assert statuses(direct.send(request)) == [201]
