"""Forged tokens and unsuitable keys are rejected."""

import base64
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from shared.http.auth import Authenticator, Caller, require_operator
from shared.http.problems import Problem
from shared.testing.timing import assert_cpu_below
from shared.tests.test_auth import ED25519, bearer, jwk, jwks, rsa_key
from shared.tests.test_auth import issuer, no_fetch_interval  # noqa: F401  # fixtures
from shared.tests.test_auth import Issuer, rejected

MALLORY = Ed25519PrivateKey.generate()


@pytest.fixture
def authenticator(tmp_path: Path) -> Authenticator:
    """An authenticator with an RSA key `one` and an Ed25519 key `two`."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(one=rsa_key(), two=ED25519))
    return Authenticator(str(file), "issuer", "bank")


def part(content: Any) -> str:
    """Return an encoded part of a token."""
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def claims(**changes: Any) -> dict[str, Any]:
    """Return valid claims with changes."""
    return {"iss": "issuer", "aud": "bank", "sub": "alice", "exp": int(time.time()) + 60, **changes}


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 0, [], ["EdDSA"], {"alg": "EdDSA"}])
@pytest.mark.parametrize("signature", ["", "AAAA"])
async def test_a_token_that_nobody_signed(authenticator: Authenticator, algorithm: Any, signature: str) -> None:
    for kid in ("one", "two", None):
        head = {"alg": algorithm, "typ": "JWT", **({"kid": kid} if kid else {})}
        await rejected(authenticator, f"Bearer {part(head)}.{part(claims())}.{signature}")


@pytest.mark.parametrize("claimed", ["none", "HS256", "RS256", "ES256", "PS256", "eddsa", "EdDSA "])
async def test_a_good_signature_under_another_algorithms_name(authenticator: Authenticator, claimed: str) -> None:
    head, body = part({"alg": claimed, "kid": "two"}), part(claims())
    signature = base64.urlsafe_b64encode(ED25519.sign(f"{head}.{body}".encode())).decode().rstrip("=")
    await rejected(authenticator, f"Bearer {head}.{body}.{signature}")


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
async def test_key_in_token_header_is_ignored(authenticator: Authenticator, header: dict[str, Any]) -> None:
    head = {"kid": "two", **header}
    token = jwt.encode(claims(), MALLORY, "EdDSA", {name: value for name, value in head.items() if value is not None})
    await rejected(authenticator, f"Bearer {token}")


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
async def test_key_id_is_only_looked_up_by_name(authenticator: Authenticator, kid: str) -> None:
    await rejected(authenticator, bearer(MALLORY, kid))
    await rejected(authenticator, bearer(ED25519, kid))


async def test_url_in_token_header_is_never_fetched(
    issuer: Issuer, no_fetch_interval: None, authenticator: Authenticator  # noqa: F811
) -> None:
    issuer.content = jwks(new=MALLORY)
    for name in ("jku", "x5u"):
        token = jwt.encode(claims(), MALLORY, "EdDSA", {"kid": "new", name: issuer.url})
        await rejected(authenticator, f"Bearer {token}")
    assert issuer.requests == 0


async def test_unknown_critical_extensions_are_rejected(authenticator: Authenticator) -> None:
    body = json.dumps(claims()).encode()
    token = jwt.api_jws.encode(body, ED25519, "EdDSA", {"kid": "two", "crit": ["x"], "x": True})
    await rejected(authenticator, f"Bearer {token}")


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
async def test_tampered_token_is_rejected(authenticator: Authenticator, change: Callable[[str], str]) -> None:
    good = bearer(ED25519, "two")
    assert (await authenticator.authenticate(good)).subject == "alice"
    await rejected(authenticator, change(good))
    assert (await authenticator.authenticate(good)).subject == "alice", "what failed beside it does not harm it"


@pytest.mark.parametrize(
    "wrong",
    [{"iss": "other"}, {"iss": None}, {"aud": "other"}, {"aud": []}, {"aud": None}, {"nbf": 2**33}, {"exp": 1}],
)
async def test_token_for_another_issuer_or_audience_is_rejected(
    authenticator: Authenticator, wrong: dict[str, Any]
) -> None:
    given = {name: value for name, value in claims(**wrong).items() if value is not None}
    await rejected(authenticator, "Bearer " + jwt.encode(given, ED25519, "EdDSA", {"kid": "two"}))


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


async def test_cached_token_grants_nothing_to_other_tokens(authenticator: Authenticator) -> None:
    operator = bearer(ED25519, "two", scope="bank:operator")
    assert (await authenticator.authenticate(operator)).is_operator
    assert await authenticator.authenticate(bearer(ED25519, "two")) == Caller("alice", frozenset())
    assert not (await authenticator.authenticate(bearer(ED25519, "two", sub="bob", scope="bank:deposit"))).is_operator


@pytest.mark.parametrize(
    "scope",
    [
        *(f"x{space}bank:operator" for space in "\xa0\x1c\x1d\x1e\x1f\x85\t\n\r\v\f\u2003\u2028\u3000"),
        *('"bank:operator"', "bank:operator\\", "\\bank:operator", "bank:operator\x00", "bank:operator\xa0"),
        *("\x1cbank:operator", "bank:operator\n", "bank\uff1aoperator", "\u0412ank:operator"),
    ],
)
async def test_scopes_are_separated_by_spaces_only(authenticator: Authenticator, scope: str) -> None:
    caller = await authenticator.authenticate(bearer(ED25519, "two", scope=f"{scope} bank:deposit"))
    assert not caller.is_operator and caller.scopes <= {"bank:deposit", "x"} and caller.is_cash_desk


@pytest.mark.parametrize(
    "claim", [{"scp": ["bank:operator"]}, {"scope": ["bank:operator"]}, {"scopes": "bank:operator"}]
)
async def test_list_of_scopes_grants_nothing(authenticator: Authenticator, claim: dict[str, Any]) -> None:
    assert (await authenticator.authenticate(bearer(ED25519, "two", **claim))).scopes == frozenset()


@pytest.mark.parametrize(
    "form",
    [
        *("Bearer\t{}", "Bearer\xa0{}", "Bearer\n{}", "Bearer {} ", " Bearer {}", "Bearer {}\n", "Bearer {}\x00", "{}"),
        *(
            "Bearer {0},Bearer {0}",
            "Bearer {}, Basic eA==",
            "Basic eA==, Bearer {}",
            "Bearer {0} {0}",
            "Bearer {0}.{0}",
        ),
        *(
            "Bearer {}=",
            "Bearer={}",
            'Bearer "{}"',
            "Bearer token={}",
            "Token {}",
            "Bear\u212aer {}",
            "Bearer {}\u200b",
        ),
    ],
)
async def test_a_credential_has_one_form(authenticator: Authenticator, form: str) -> None:
    good = bearer(ED25519, "two")
    assert (await authenticator.authenticate(good)).subject == "alice"
    assert "Authorization header" in await rejected(authenticator, form.format(good.removeprefix("Bearer ")))


@pytest.mark.parametrize(
    "header",
    [
        *("Bearer " + "a" * 100_000, "Bearer " + "a." * 50_000, "Bearer " + " " * 100_000, "x" * 100_000),
        f"Bearer {part('x' * 70_000)}.e.e",
    ],
)
async def test_a_token_of_100_kilobytes_costs_nothing(authenticator: Authenticator, header: str) -> None:
    with assert_cpu_below(1):
        await rejected(authenticator, header)


@pytest.mark.parametrize("deep", ['{"alg":"EdDSA","kid":', '{"kid":"two","alg":"EdDSA","x":'])
async def test_deeply_nested_header_is_rejected(authenticator: Authenticator, deep: str) -> None:
    levels = 2_900
    head = base64.urlsafe_b64encode((deep + "[" * levels + "]" * levels + "}").encode()).decode().rstrip("=")
    await rejected(authenticator, f"Bearer {head}.{part(claims())}.AAAA")
    await rejected(authenticator, f"Bearer {part({'alg': 'EdDSA', 'kid': 'two'})}.{head}.AAAA")


@pytest.mark.parametrize("kid", [0, 1.5, True, [], ["two"], {}, {"two": 1}])
async def test_key_id_must_be_a_string(authenticator: Authenticator, kid: Any) -> None:
    head, body = part({"alg": "EdDSA", "kid": kid}), part(claims())
    signature = base64.urlsafe_b64encode(ED25519.sign(f"{head}.{body}".encode())).decode().rstrip("=")
    await rejected(authenticator, f"Bearer {head}.{body}.{signature}")


@pytest.mark.parametrize("crit", [[], "x", ["exp"], ["b64"], {}, None, 5])
async def test_crit_header_is_rejected(authenticator: Authenticator, crit: Any) -> None:
    head, body = part({"alg": "EdDSA", "kid": "two", "b64": False, "crit": crit}), part(claims())
    signature = base64.urlsafe_b64encode(ED25519.sign(f"{head}.{body}".encode())).decode().rstrip("=")
    await rejected(authenticator, f"Bearer {head}.{body}.{signature}")


@pytest.mark.parametrize(
    "change", [{"exp": 10**400}, {"exp": [1]}, {"exp": {}}, {"nbf": "soon"}, {"nbf": [1]}, {"sub": None}]
)
async def test_claims_of_wrong_types_are_rejected(authenticator: Authenticator, change: dict[str, Any]) -> None:
    given = {**claims(), **change}
    head, body = part({"alg": "EdDSA", "kid": "two"}), part(given)
    signature = base64.urlsafe_b64encode(ED25519.sign(f"{head}.{body}".encode())).decode().rstrip("=")
    await rejected(authenticator, f"Bearer {head}.{body}.{signature}")


@pytest.mark.parametrize("exp", ["Infinity", "NaN", "1e999", "-Infinity"])
async def test_invalid_expiry_is_rejected(authenticator: Authenticator, exp: str) -> None:
    text = json.dumps(claims(exp=0)).replace('"exp": 0', f'"exp": {exp}')
    head, body = part({"alg": "EdDSA", "kid": "two"}), base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    signature = base64.urlsafe_b64encode(ED25519.sign(f"{head}.{body}".encode())).decode().rstrip("=")
    await rejected(authenticator, f"Bearer {head}.{body}.{signature}")


@pytest.mark.parametrize(
    "subject",
    [
        *(
            "",
            " ",
            " alice",
            "alice ",
            "alice\xa0",
            "ali\xa0ce",
            "alice\u200b",
            "ali\u0301ce",
            "al\xedce",
            "\u0430lice",
        ),
        *("alice\n", "alice\x00", "alice\x7f", "\uff41lice", "alice\ufe0f", "\u3164", "\U000e0061lice", "x" * 201),
    ],
)
async def test_nobody_is_called_nearly_like_somebody_else(authenticator: Authenticator, subject: str) -> None:
    assert "subject" in await rejected(authenticator, bearer(ED25519, "two", sub=subject))


@pytest.mark.parametrize(
    "subject", ["alice", "Alice Smith", "a", "x" * 200, "auth0|5f7c", "https://id.example/alice", "~"]
)
async def test_common_subjects_are_accepted(authenticator: Authenticator, subject: str) -> None:
    assert (await authenticator.authenticate(bearer(ED25519, "two", sub=subject))).subject == subject


async def test_two_keys_of_one_name_open_nothing(tmp_path: Path) -> None:
    keys = [jwk(ED25519, "same"), jwk(MALLORY, "same"), jwk(rsa_key(), "one"), jwk(rsa_key(), "one")]
    file = tmp_path / "jwks.json"
    for order in (keys, keys[::-1]):
        file.write_text(json.dumps({"keys": order}))
        authenticator = Authenticator(str(file), "issuer", "bank")
        for key in (ED25519, MALLORY):
            await rejected(authenticator, bearer(key, "same"))
        assert (await authenticator.authenticate(bearer(rsa_key(), "one"))).subject == "alice", "twice the same is one"


@pytest.mark.parametrize(
    "change",
    [
        {"use": "enc"},
        {"alg": "RS256"},
        {"alg": "ES256"},
        {"key_ops": ["sign"]},
        {"key_ops": []},
        {"kid": 5},
        {"kid": []},
    ],
)
async def test_a_key_that_is_for_something_else_opens_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [{**jwk(MALLORY, "bad"), **change}, jwk(ED25519, "two")]}))
    authenticator = Authenticator(str(file), "issuer", "bank")
    await rejected(authenticator, bearer(MALLORY, "bad"))
    assert (await authenticator.authenticate(bearer(ED25519, "two"))).subject == "alice"


async def test_a_short_rsa_key_opens_nothing(tmp_path: Path) -> None:
    short = generate_private_key(public_exponent=65537, key_size=1024)
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk(short, "short"), jwk(ED25519, "two")]}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyJWT warns when signing with a short key
        token = bearer(short, "short")
    await rejected(Authenticator(str(file), "issuer", "bank"), token)
