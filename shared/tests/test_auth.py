"""Authentication: keys of both types, from files and URLs, with rotation and outages of the issuer."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.http import auth
from shared.http.auth import LEEWAY_SECONDS, Authenticator, Caller, check_service_token, require_operator
from shared.http.problems import Problem
from shared.testing.timing import StoppedClock, assert_prompt
from shared.tests.support import served

Key = RSAPrivateKey | Ed25519PrivateKey


@cache
def rsa_key() -> RSAPrivateKey:
    """Return an RSA key; cached because generating one is slow."""
    return generate_private_key(public_exponent=65537, key_size=2048)


ED25519 = Ed25519PrivateKey.generate()


def jwk(key: Key, kid: str) -> dict[str, Any]:
    """Return the public part of a key as a JWK."""
    if isinstance(key, RSAPrivateKey):
        return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid}
    return {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid}


def jwks(**keys: Key) -> bytes:
    """Return a JWKS with the keys by key id."""
    return json.dumps({"keys": [jwk(key, kid) for kid, key in keys.items()]}).encode()


def bearer(key: Key, kid: str, algorithm: str = "", **claims: Any) -> str:
    """Return an Authorization header with a token that is valid for a minute."""
    claims = {"iss": "issuer", "aud": "bank", "sub": "alice", "exp": time.time() + 60, **claims}
    algorithm = algorithm or ("RS256" if isinstance(key, RSAPrivateKey) else "EdDSA")
    return "Bearer " + jwt.encode(claims, key, algorithm, {"kid": kid})


async def rejected(authenticator: Authenticator, header: str | None) -> str:
    """Authenticate with an invalid header and return the detail of the problem."""
    with pytest.raises(Problem) as caught:
        await authenticator.authenticate(header)
    assert caught.value.status == 401 and "WWW-Authenticate" in caught.value.headers
    return caught.value.detail


@dataclass
class Issuer:
    """Serves a JWKS and counts requests."""

    content: bytes = b""
    status: int = 200
    requests: int = 0
    url: str = field(default="")

    async def answer(self, _request: Request) -> Response:
        """Return the current keys."""
        self.requests += 1
        return Response(self.content, self.status)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer on the loopback address."""
    issuer = Issuer()
    async with served(Starlette(routes=[Route("/jwks", issuer.answer)])) as url:
        issuer.url = f"{url}/jwks"
        yield issuer


@pytest.fixture
def no_fetch_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the minimum interval between fetches."""
    monkeypatch.setattr(auth, "_MIN_FETCH_INTERVAL_SECONDS", 0)


@asynccontextmanager
async def refreshing(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Treat the keys as outdated while the block runs."""
    with monkeypatch.context() as patch:
        patch.setattr(auth, "_REFRESH_SECONDS", -1)
        yield


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    """The clock of the authenticator and of PyJWT, stopped."""
    clock = StoppedClock(float(int(time.time())))

    class Datetime(jwt.api_jwt.datetime):  # type: ignore[name-defined,misc]
        """PyJWT's clock."""

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            """Return the time of the clock."""
            return cls.fromtimestamp(clock.now, tz)

    monkeypatch.setattr(auth, "time", clock)
    monkeypatch.setattr(jwt.api_jwt, "datetime", Datetime)
    return clock


async def test_a_token_is_good_though_the_issuers_clock_is_ahead(tmp_path: Path, clock: StoppedClock) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(one=ED25519))
    authenticator = Authenticator(str(file), "issuer", "bank")
    for good in (
        {"iat": clock.now + 30},
        {"nbf": clock.now + LEEWAY_SECONDS},
        {"exp": clock.now - LEEWAY_SECONDS + 1},
    ):
        assert (await authenticator.authenticate(bearer(ED25519, "one", **good))).subject == "alice"
    for late in ({"nbf": clock.now + LEEWAY_SECONDS + 1}, {"exp": clock.now - LEEWAY_SECONDS}):
        await rejected(authenticator, bearer(ED25519, "one", **late))


async def test_tokens_of_both_algorithms_are_accepted_with_their_scopes(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(one=rsa_key(), two=ED25519))
    authenticator = Authenticator(str(file), "issuer", "bank")
    expected = Caller("alice", frozenset({"bank:operator", "x"}))
    for header in (bearer(rsa_key(), "one", scope="bank:operator x"), bearer(ED25519, "two", scope="x bank:operator")):
        assert await authenticator.authenticate(header) == expected
        assert await authenticator.authenticate(header.replace("Bearer", "bEARER")) == expected
    assert (await authenticator.authenticate(bearer(ED25519, "two", scope=["bank:operator"]))).scopes == frozenset()
    assert expected.is_operator and expected.may_see("bob") and not expected.is_cash_desk
    require_operator(expected)
    with pytest.raises(Problem, match="forbidden"):
        require_operator(Caller("alice", frozenset({"bank:deposit"})))


async def test_a_key_of_one_kind_does_not_check_tokens_of_another(tmp_path: Path) -> None:
    """In particular not HS256 with the public key as the secret."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(one=rsa_key(), two=ED25519))
    authenticator = Authenticator(str(file), "issuer", "bank")
    claims = {"iss": "issuer", "aud": "bank", "sub": "alice", "exp": int(time.time()) + 60}
    pem = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    raw = ED25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    for kid, secret in (("one", pem), ("two", raw), ("two", pem), ("one", file.read_bytes())):
        signed = jwt.api_jws.encode(json.dumps(claims).encode(), b"x" * 32, "HS256", {"kid": kid})
        head = signed.rpartition(".")[0]
        # Signed manually: the library refuses to use a public key as an HMAC secret.
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(head.encode(), secret)
        forged = f"{head}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
        assert "token is invalid" in await rejected(authenticator, f"Bearer {forged}")
    assert "token is invalid" in await rejected(authenticator, bearer(rsa_key(), "one", "RS512"))
    assert "token is invalid" in await rejected(authenticator, bearer(rsa_key(), "two"))
    assert "token is invalid" in await rejected(authenticator, bearer(ED25519, "one"))


async def test_a_cached_token_expires(tmp_path: Path, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(one=ED25519))
    authenticator = Authenticator(str(file), "issuer", "bank")
    header = bearer(ED25519, "one", exp=clock.now + 100)
    assert (await authenticator.authenticate(header)).subject == "alice"
    with monkeypatch.context() as patch:
        patch.setattr(jwt, "decode", lambda *_arguments, **_options: pytest.fail("the token is not cached"))
        clock.now += 99 + LEEWAY_SECONDS
        await authenticator.authenticate(header)
    clock.now += 1
    assert "expired" in await rejected(authenticator, header)


async def test_token_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_CACHED_TOKENS", 3)
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(one=ED25519))
    authenticator = Authenticator(str(file), "issuer", "bank")
    for number in range(10):
        header = bearer(ED25519, "one", sub=f"s{number}")
        assert (await authenticator.authenticate(header)).subject == f"s{number}"
    assert len(authenticator._verified) == 3  # pylint: disable=protected-access


async def test_the_keys_of_a_file_rotate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_fetch_interval: None
) -> None:
    file, new = tmp_path / "jwks.json", Ed25519PrivateKey.generate()
    file.write_bytes(jwks(old=ED25519))
    authenticator = Authenticator(str(file), "issuer", "bank")
    await authenticator.load()
    first = bearer(ED25519, "old")
    await authenticator.authenticate(first)
    assert "token is invalid" in await rejected(authenticator, bearer(new, "new"))
    file.write_bytes(jwks(old=ED25519, new=new))
    await authenticator.authenticate(bearer(new, "new"))
    file.write_bytes(jwks(new=new))
    await authenticator.authenticate(first)
    async with refreshing(monkeypatch):
        assert "token is invalid" in await rejected(
            authenticator, first
        ), "a removed key is rejected, also for cached tokens"
        file.unlink()
        await authenticator.authenticate(bearer(new, "new"))


async def test_the_keys_of_an_issuer_rotate(issuer: Issuer, clock: StoppedClock) -> None:
    new = Ed25519PrivateKey.generate()
    issuer.content = jwks(old=rsa_key())
    authenticator = Authenticator(issuer.url, "issuer", "bank")
    for _ in range(3):
        await authenticator.authenticate(bearer(rsa_key(), "old"))
    issuer.content = jwks(new=new)
    for _ in range(3):
        await rejected(authenticator, bearer(new, "new"))
    assert issuer.requests == 1, "invalid tokens do not flood the issuer with requests"
    clock.now += 5
    await authenticator.authenticate(bearer(new, "new"))
    await rejected(authenticator, bearer(rsa_key(), "old"))


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (500, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"keys": []}'),
        (200, b'{"keys": 5}'),
        (200, b'{"keys": [5]}'),
        (200, b'{"keys": [{"kty": ["x"]}]}'),
    ],
)
async def test_an_issuer_that_breaks_leaves_the_old_keys_in_force(
    issuer: Issuer, status: int, content: bytes, no_fetch_interval: None
) -> None:
    issuer.content = jwks(old=ED25519)
    authenticator = Authenticator(issuer.url, "issuer", "bank")
    await authenticator.authenticate(bearer(ED25519, "old"))
    issuer.status, issuer.content = status, content
    await rejected(authenticator, bearer(ED25519, "unknown"))
    assert (await authenticator.authenticate(bearer(ED25519, "old", sub="bob"))).subject == "bob"


async def test_keys_are_fetched_again_after_issuer_was_unavailable_at_startup(no_fetch_interval: None) -> None:
    issuer = Issuer(content=jwks(one=ED25519))
    app = Starlette(routes=[Route("/jwks", issuer.answer)])
    async with served(app) as url:
        pass
    authenticator = Authenticator(f"{url}/jwks", "issuer", "bank")
    with pytest.raises(httpx.HTTPError):
        await authenticator.load()
    with pytest.raises(Problem) as caught:
        await authenticator.authenticate(bearer(ED25519, "one"))
    assert caught.value.status == 503, "the token may be valid"
    async with served(app, int(url.rpartition(":")[2])):
        assert (await authenticator.authenticate(bearer(ED25519, "one"))).subject == "alice"


async def test_unusable_keys_are_ignored(tmp_path: Path) -> None:
    exchange = OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate().public_key(), as_dict=True)
    x25519 = X25519PrivateKey.generate().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    strange = [
        {**exchange, "crv": "X25519", "x": base64.urlsafe_b64encode(x25519).decode().rstrip("="), "kid": "exchange"},
        {"kty": "OKP", "crv": "Ed25519", "x": "short", "kid": "short"},
        {"kty": "RSA", "kid": "empty"},
        {"kty": "EC", "crv": "P-256", "kid": "ec"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {**jwk(rsa_key(), "encryption"), "use": "enc"},
    ]
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [*strange, jwk(ED25519, "one")]}))
    authenticator = Authenticator(str(file), "issuer", "bank")
    assert (await authenticator.authenticate(bearer(ED25519, "one"))).subject == "alice"
    await rejected(authenticator, bearer(rsa_key(), "encryption"))


async def test_malformed_tokens_are_rejected(tmp_path: Path) -> None:
    def part(content: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(one=ED25519))
    authenticator = Authenticator(str(file), "issuer", "bank")
    for head in ([], 5, {"alg": "EdDSA", "kid": ["x"]}, {"alg": "EdDSA", "kid": None}, {"alg": {}, "kid": "one"}):
        await rejected(authenticator, f"Bearer {part(head)}.{part({})}.AAAA")
    for text in (None, "", "Bearer", "Bearer ", "Bearer ...", "Bearer é", "Bearer " + "." * 9000, "Token x"):
        await rejected(authenticator, text)
    for claims in ({"sub": ""}, {"sub": "x" * 201}, {"sub": 5}, {"exp": "soon"}, {"exp": None}, {"aud": 5}):
        await rejected(authenticator, bearer(ED25519, "one", **claims))


def test_the_services_token() -> None:
    check_service_token("Bearer secret", "secret")
    for header in (None, "", "secret", "Bearer Secret", "Bearer secret ", "bearer secret", "Bearer sécret"):
        with pytest.raises(Problem, match="unauthorized"):
            check_service_token(header, "secret")


async def test_an_issuer_that_hangs_keeps_one_waiting_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dribble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        connections.add(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.05)
        connections.remove(writer)

    asked, connections, loads = asyncio.Event(), set[asyncio.StreamWriter](), list[bool]()
    server = await asyncio.start_server(dribble, "127.0.0.1", 0)

    def authenticator() -> Authenticator:
        made = Authenticator(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "issuer", "bank")
        made._keys = {"one": jwt.PyJWK(jwk(ED25519, "one"), "EdDSA")}  # pylint: disable=protected-access
        return made

    async def authenticate(with_keys: Authenticator) -> None:
        assert (await with_keys.authenticate(bearer(ED25519, "one"))).subject == "alice"

    async with server:
        waiting = authenticator()
        one = asyncio.create_task(authenticate(waiting))
        await asked.wait()
        await asyncio.gather(*(authenticate(waiting) for _ in range(19)))
        assert not one.done(), "one waits for the issuer, and no other"
        one.cancel()
        await asyncio.wait([one])

        impatient = authenticator()
        load = impatient.load
        monkeypatch.setattr(impatient, "load", lambda: loads.append(True) or load())
        monkeypatch.setattr(auth, "_FETCH_SECONDS", 0.2)
        with assert_prompt():
            await authenticate(impatient)
        await authenticate(impatient)
        assert loads == [True], "nobody asks a dead issuer again and again"
        while connections:
            await asyncio.sleep(0.01)
