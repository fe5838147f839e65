"""Tokens that somebody made up to be let in; each is refused, and so is what looks like a key."""

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.auth import Authenticator, Caller, require_operator
from shared.problems import Problem
from shared.tests.test_auth import ED25519, bearer, impatient, issuer, jwk, jwks, rsa_key  # noqa: F401  # fixtures
from shared.tests.test_auth import Issuer, refused

MALLORY = Ed25519PrivateKey.generate()


@pytest.fixture
def authenticator(tmp_path: Path) -> Authenticator:
    """Knows an RSA key `one` and an Ed25519 key `two`."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(one=rsa_key(), two=ED25519))
    return Authenticator(str(file), "issuer", "bank")


def part(content: Any) -> str:
    """Return a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def claims(**changes: Any) -> dict[str, Any]:
    """Return claims that would be good."""
    return {"iss": "issuer", "aud": "bank", "sub": "alice", "exp": int(time.time()) + 60, **changes}


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 0, [], ["EdDSA"], {"alg": "EdDSA"}])
@pytest.mark.parametrize("signature", ["", "AAAA"])
async def test_a_token_that_nobody_signed(authenticator: Authenticator, algorithm: Any, signature: str) -> None:
    for kid in ("one", "two", None):
        head = {"alg": algorithm, "typ": "JWT", **({"kid": kid} if kid else {})}
        await refused(authenticator, f"Bearer {part(head)}.{part(claims())}.{signature}")


@pytest.mark.parametrize("claimed", ["none", "HS256", "RS256", "ES256", "PS256", "eddsa", "EdDSA "])
async def test_a_good_signature_under_another_algorithms_name(authenticator: Authenticator, claimed: str) -> None:
    head, body = part({"alg": claimed, "kid": "two"}), part(claims())
    signature = base64.urlsafe_b64encode(ED25519.sign(f"{head}.{body}".encode())).decode().rstrip("=")
    await refused(authenticator, f"Bearer {head}.{body}.{signature}")


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": jwk(MALLORY, "two")},
        {"jku": "http://127.0.0.1:1/jwks"},
        {"x5u": "http://127.0.0.1:1/cert"},
        {"x5c": ["AAAA"]},
        {"jwk": jwk(MALLORY, "new"), "kid": "new"},
        {"jwk": jwk(MALLORY, "new"), "kid": None},
    ],
)
async def test_a_key_that_comes_with_the_token(authenticator: Authenticator, header: dict[str, Any]) -> None:
    head = {"kid": "two", **header}
    token = jwt.encode(claims(), MALLORY, "EdDSA", {name: value for name, value in head.items() if value is not None})
    await refused(authenticator, f"Bearer {token}")


@pytest.mark.parametrize(
    "kid",
    [
        "../../dev/null",
        "/dev/null",
        "two' OR '1'='1",
        "two\x00",
        "TWO",
        "two ",
        "",
        "*",
        "http://127.0.0.1:1",
        "x" * 5000,
    ],
)
async def test_a_key_id_is_a_name_and_nothing_else(authenticator: Authenticator, kid: str) -> None:
    await refused(authenticator, bearer(MALLORY, kid))
    await refused(authenticator, bearer(ED25519, kid))


async def test_no_token_makes_the_bank_ask_an_address_of_the_tokens_own(
    issuer: Issuer, impatient: None, authenticator: Authenticator  # noqa: F811
) -> None:
    issuer.content = jwks(new=MALLORY)
    for name in ("jku", "x5u"):
        token = jwt.encode(claims(), MALLORY, "EdDSA", {"kid": "new", name: issuer.url})
        await refused(authenticator, f"Bearer {token}")
    assert issuer.asked == 0


async def test_critical_extensions_that_nobody_here_understands(authenticator: Authenticator) -> None:
    body = json.dumps(claims()).encode()
    token = jwt.api_jws.encode(body, ED25519, "EdDSA", {"kid": "two", "crit": ["x"], "x": True})
    await refused(authenticator, f"Bearer {token}")


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB"),
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: token + ".x",
        lambda token: ".".join([*token.split(".")[:1], part(claims(sub="bob")), token.split(".")[2]]),
        lambda token: ".".join([part({"alg": "EdDSA", "kid": "two", "x": 1}), *token.split(".")[1:]]),
        lambda token: ".".join([*token.split(".")[:1], part(claims(scope="bank:operator")), token.split(".")[2]]),
    ],
)
async def test_a_good_token_that_was_changed(authenticator: Authenticator, change: Callable[[str], str]) -> None:
    good = bearer(ED25519, "two")
    assert (await authenticator.authenticate(good)).subject == "alice"
    await refused(authenticator, change(good))
    assert (await authenticator.authenticate(good)).subject == "alice", "what failed beside it does not harm it"


@pytest.mark.parametrize(
    "wrong",
    [{"iss": "other"}, {"iss": None}, {"aud": "other"}, {"aud": []}, {"aud": None}, {"nbf": 2**33}, {"exp": 1}],
)
async def test_somebody_elses_token(authenticator: Authenticator, wrong: dict[str, Any]) -> None:
    given = {name: value for name, value in claims(**wrong).items() if value is not None}
    await refused(authenticator, "Bearer " + jwt.encode(given, ED25519, "EdDSA", {"kid": "two"}))


@pytest.mark.parametrize(
    "scope",
    [
        *("BANK:OPERATOR", "bank:operators", "xbank:operator", "bank:*", "*", "bank:operator,bank:deposit", "operator"),
        *(["bank:operator"], {"bank:operator": True}, True, 5, None, "bank:\u200boperator", "bank :operator"),
    ],
)
async def test_a_scope_is_there_letter_by_letter_or_not_at_all(authenticator: Authenticator, scope: Any) -> None:
    caller = await authenticator.authenticate(
        bearer(ED25519, "two", scope=scope, scopes="bank:operator", scp="bank:operator")
    )
    assert not caller.is_operator and not caller.is_cash_desk and not caller.may_see("bob")
    with pytest.raises(Problem, match="forbidden"):
        require_operator(caller)


async def test_a_cached_token_gives_nobody_else_its_rights(authenticator: Authenticator) -> None:
    operator = bearer(ED25519, "two", scope="bank:operator")
    assert (await authenticator.authenticate(operator)).is_operator
    assert await authenticator.authenticate(bearer(ED25519, "two")) == Caller("alice", frozenset())
    assert not (await authenticator.authenticate(bearer(ED25519, "two", sub="bob", scope="bank:deposit"))).is_operator
