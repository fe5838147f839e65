"""Bearer tokens: JWTs (RS256 or EdDSA) checked against a JWKS from a file or URL.

What is accepted is written down in docs/threat-model.md, *Tokens*.
"""

import asyncio
import hmac
import logging
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import orjson

from shared.http.problems import Problem, unavailable

log = logging.getLogger(__name__)

OPERATOR = "bank:operator"
CASH_DESK = "bank:deposit"
# Takes rights away: whoever has it, whatever else it has, stays within its own accounts.
SYNTHETIC = "bank:synthetic"

# How far the issuer's clock and ours may be apart, for `exp` and `nbf` alike.
LEEWAY_SECONDS = 60

_ALGORITHM_OF_KEY_TYPE = {"RSA": "RS256", "OKP": "EdDSA"}
_LEAST_RSA_BITS = 2048
# As long as a header may be at the edge.
_MOST_TOKEN_CHARACTERS = 8192
# RFC 6750 with a JWS in compact form; the name of the scheme may be in any case.
_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)")
# RFC 6749, 3.3: one scope of the list, whose separator is U+0020 and nothing else.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
# OpenID Connect has ASCII here; whatever more there is, some of it looks like something else.
_SUBJECT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?")
# Whatever a token may hold, reading it ends with one of these.
_UNREADABLE = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
_CACHED_TOKENS = 10_000
_REFRESH_SECONDS = 300
_FETCH_SECONDS = 5
_LEAST_SECONDS_BETWEEN_FETCHES = 5
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="bank"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, and what the token allows."""

    subject: str
    scopes: frozenset[str]

    @property
    def is_operator(self) -> bool:
        """Operators see and do all."""
        return OPERATOR in self.scopes

    @property
    def is_cash_desk(self) -> bool:
        """Those who may bring money in from outside."""
        return CASH_DESK in self.scopes

    @property
    def is_synthetic(self) -> bool:
        """Those whose money is made up: it may neither come from nor go to anybody else."""
        return SYNTHETIC in self.scopes

    def may_see(self, owner: str) -> bool:
        """Tell whether what belongs to `owner` is visible to the caller."""
        return owner == self.subject or self.is_operator


def require_operator(caller: Caller) -> None:
    """Raise Problem (forbidden) unless the caller is an operator."""
    if not caller.is_operator:
        raise Problem("forbidden", f"This needs the scope {OPERATOR}.")


def _unauthorized(detail: str) -> Problem:
    return Problem("unauthorized", detail, headers=_CHALLENGE)


class Authenticator:
    """Checks tokens; keeps the issuer's keys fresh and remembers tokens that were good until they expire."""

    def __init__(self, jwks: str, issuer: str, audience: str) -> None:
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._good: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    async def load(self) -> None:
        """Read the keys. Raises OSError, httpx.HTTPError or ValueError when that is not possible."""
        if self._jwks.startswith(("http://", "https://")):
            # In all: an issuer that sends a byte now and then would keep within the client's own limits for ever.
            async with asyncio.timeout(_FETCH_SECONDS), httpx.AsyncClient() as client:
                content = (await client.get(self._jwks)).raise_for_status().content
        else:
            content = Path(self._jwks).read_bytes()
        self._keys = _usable_keys(content)
        self._good.clear()
        self._fetched_at = time.monotonic()

    async def _reload_if_older_than(self, seconds: float) -> None:
        async with self._fetching:
            if time.monotonic() - self._fetched_at < seconds:
                return
            try:
                await self.load()
            except (OSError, httpx.HTTPError, ValueError):
                # Go on with the keys we have; do not ask a dead issuer on every request.
                self._fetched_at = time.monotonic()

    async def authenticate(self, authorization: str | None) -> Caller:
        """Return the caller named by an Authorization header.

        Raises Problem (unauthorized) when the token is missing, malformed, expired, foreign or wrongly signed.
        """
        token = _token_of(authorization)
        # One request waits for an issuer that hangs; the others go on with the keys of before.
        if time.monotonic() - self._fetched_at > _REFRESH_SECONDS and not self._fetching.locked():
            await self._reload_if_older_than(_REFRESH_SECONDS)
        known = self._good.get(token)
        if known is not None and known[1] > time.time():
            return known[0]
        self._good.pop(token, None)
        caller, good_until = await self._check(token)
        self._good[token] = caller, good_until
        if len(self._good) > _CACHED_TOKENS:
            self._good.popitem(last=False)
        return caller

    async def _check(self, token: str) -> tuple[Caller, float]:
        try:
            key = await self._key_for(jwt.get_unverified_header(token).get("kid"))
            # The algorithm comes from the key, never from the token.
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                # `iat` says when a token was made; from when on it is good is in `nbf`. A new token of an issuer whose
                # clock is a second ahead would be refused.
                options={"require": ["exp", "sub"], "verify_iat": False},
            )
            good_until = float(claims["exp"]) + LEEWAY_SECONDS
        except jwt.ExpiredSignatureError as error:
            raise _unauthorized("The token has expired; get a new one.") from error
        except _UNREADABLE as error:
            raise _unauthorized("The token is not one that this bank accepts.") from error
        subject = claims["sub"]
        if not _SUBJECT.fullmatch(subject):
            raise _unauthorized(
                "The token's subject must be 1 to 200 printable ASCII characters, no space at the ends."
            )
        return Caller(subject, _scopes(claims)), good_until

    async def _key_for(self, kid: Any) -> jwt.PyJWK:
        if kid not in self._keys:
            await self._reload_if_older_than(_LEAST_SECONDS_BETWEEN_FETCHES)
        if not self._keys:
            # Not the token's fault: nobody shall throw it away.
            raise unavailable("The issuer's keys cannot be read yet.")
        if kid not in self._keys:
            raise jwt.InvalidKeyError("unknown key")
        return self._keys[kid]


def _token_of(authorization: str | None) -> str:
    """Return the token of an Authorization header. Raises Problem (unauthorized) when there is none."""
    if authorization is not None and len(authorization) <= _MOST_TOKEN_CHARACTERS:
        match = _BEARER.fullmatch(authorization)
        if match:
            return match[1]
    raise _unauthorized("Send an Authorization header: Bearer <token>.")


def _usable_keys(content: bytes) -> dict[str | None, jwt.PyJWK]:
    """Return the keys of a JWKS that tokens are checked with. Raises ValueError for what is no JWKS or has none."""
    document = orjson.loads(content)
    entries = document.get("keys") if isinstance(document, dict) else None
    keys: dict[str | None, jwt.PyJWK] = {}
    ambiguous: set[str | None] = set()
    for entry in entries if isinstance(entries, list) else ():
        try:
            kid, key = _usable_key(entry)
        except (*_UNREADABLE, LookupError, AttributeError) as error:
            # An issuer may well have keys that are not for us; they must not cost us the others.
            log.info("a key in AUTH_JWKS is of no use here: %s", type(error).__name__)
            continue
        if kid in keys and keys[kid].Algorithm.to_jwk(keys[kid].key) != key.Algorithm.to_jwk(key.key):
            ambiguous.add(kid)
        keys[kid] = key
    for kid in ambiguous:
        log.warning("AUTH_JWKS has different keys under one kid; none of them is used")
        del keys[kid]
    if not keys:
        raise ValueError("AUTH_JWKS has no usable key")
    return keys


def _usable_key(entry: dict[str, Any]) -> tuple[str | None, jwt.PyJWK]:
    """Return a key of a JWKS and its name. Raises when it is not one that signatures of tokens are checked with."""
    algorithm = _ALGORITHM_OF_KEY_TYPE[entry["kty"]]
    kid = entry.get("kid")
    if not isinstance(kid, str | None) or entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        raise ValueError("not for us")
    if "verify" not in entry.get("key_ops", ["verify"]):
        raise ValueError("not for us")
    key = jwt.PyJWK(entry, algorithm)
    if getattr(key.key, "key_size", _LEAST_RSA_BITS) < _LEAST_RSA_BITS:
        raise ValueError("too short")
    return kid, key


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """Return the scopes of a token: those of the string `scope` (RFC 9068); lists and `scp` give none."""
    scope = claims.get("scope")
    return frozenset(filter(_SCOPE.fullmatch, scope.split(" "))) if isinstance(scope, str) else frozenset()


def check_service_token(authorization: str | None, secret: str) -> None:
    """Raise Problem (unauthorized) unless the header carries the services' shared secret."""
    given = (authorization or "").encode()
    if not hmac.compare_digest(given, f"Bearer {secret}".encode()):
        raise _unauthorized("This needs the services' own token.")
