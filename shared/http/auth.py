"""Bearer tokens: JWTs (RS256 or EdDSA) checked against a JWKS from a file or URL.

docs/threat-model.md, *Tokens*, specifies which tokens are accepted.
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
# Restricts the caller to its own accounts, whatever other scopes it has.
SYNTHETIC = "bank:synthetic"

# Tolerated clock skew between issuer and services, for `exp` and `nbf`.
LEEWAY_SECONDS = 60

_ALGORITHM_OF_KEY_TYPE = {"RSA": "RS256", "OKP": "EdDSA"}
_MIN_RSA_BITS = 2048
# The maximum length of a header in NGINX.
_MAX_TOKEN_CHARACTERS = 8192
# RFC 6750 with a JWS in compact form; the scheme is case-insensitive.
_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)")
# RFC 6749, 3.3: one scope of the list; the only separator is U+0020.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
# ASCII only, as in OpenID Connect: other characters allow lookalike subjects.
_SUBJECT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,198}[\x21-\x7e])?")
# All exceptions that decoding a malformed token may raise.
_UNREADABLE = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
_CACHED_TOKENS = 10_000
_REFRESH_SECONDS = 300
_FETCH_SECONDS = 5
_MIN_FETCH_INTERVAL_SECONDS = 5
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="bank"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated client of a request: subject and scopes of its token."""

    subject: str
    scopes: frozenset[str]

    @property
    def is_operator(self) -> bool:
        """Whether the caller is an operator, who may see and change everything."""
        return OPERATOR in self.scopes

    @property
    def is_cash_desk(self) -> bool:
        """Whether the caller may credit accounts from outside the bank."""
        return CASH_DESK in self.scopes

    @property
    def is_synthetic(self) -> bool:
        """Whether the caller is a synthetic client, whose money must stay within its own accounts."""
        return SYNTHETIC in self.scopes

    def may_see(self, owner: str) -> bool:
        """Return whether the caller may see resources of `owner`."""
        return owner == self.subject or self.is_operator


def require_operator(caller: Caller) -> None:
    """Raise Problem (forbidden) unless the caller is an operator."""
    if not caller.is_operator:
        raise Problem("forbidden", f"The scope {OPERATOR} is required.")


def _unauthorized(detail: str) -> Problem:
    return Problem("unauthorized", detail, headers=_CHALLENGE)


class Authenticator:
    """Verifies tokens; refreshes the issuer's keys and caches verified tokens until they expire."""

    def __init__(self, jwks: str, issuer: str, audience: str) -> None:
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()
        self._verified: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    async def load(self) -> None:
        """Load the keys. Raises OSError, httpx.HTTPError or ValueError on failure."""
        if self._jwks.startswith(("http://", "https://")):
            # Total timeout: an issuer that trickles bytes never exceeds the read timeout of the client.
            async with asyncio.timeout(_FETCH_SECONDS), httpx.AsyncClient(timeout=_FETCH_SECONDS) as client:
                content = (await client.get(self._jwks)).raise_for_status().content
        else:
            content = Path(self._jwks).read_bytes()
        self._keys = _parse_jwks(content)
        self._verified.clear()
        self._fetched_at = time.monotonic()

    async def _reload_if_older_than(self, seconds: float) -> None:
        async with self._fetching:
            if time.monotonic() - self._fetched_at < seconds:
                return
            try:
                await self.load()
            except (OSError, httpx.HTTPError, ValueError):
                # Keep the current keys and do not retry on every request.
                self._fetched_at = time.monotonic()

    async def authenticate(self, authorization: str | None) -> Caller:
        """Return the caller of an Authorization header.

        Raises Problem (unauthorized) for a token that is missing, malformed, expired, of another issuer or audience, or
        has an invalid signature.
        """
        token = _token_of(authorization)
        # Only one request waits for the issuer; the others use the current keys.
        if time.monotonic() - self._fetched_at > _REFRESH_SECONDS and not self._fetching.locked():
            await self._reload_if_older_than(_REFRESH_SECONDS)
        cached = self._verified.get(token)
        if cached is not None and cached[1] > time.time():
            return cached[0]
        self._verified.pop(token, None)
        caller, expires_at = await self._verify(token)
        self._verified[token] = caller, expires_at
        if len(self._verified) > _CACHED_TOKENS:
            self._verified.popitem(last=False)
        return caller

    async def _verify(self, token: str) -> tuple[Caller, float]:
        try:
            key = await self._key_for(jwt.get_unverified_header(token).get("kid"))
            # The key determines the algorithm, never the token.
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                # `nbf` defines when a token becomes valid, not `iat`: checking `iat` would reject new tokens of an
                # issuer whose clock is a second ahead.
                options={"require": ["exp", "sub"], "verify_iat": False},
            )
            expires_at = float(claims["exp"]) + LEEWAY_SECONDS
        except jwt.ExpiredSignatureError as error:
            raise _unauthorized("The token has expired; request a new one.") from error
        except _UNREADABLE as error:
            raise _unauthorized("The token is invalid; request one from the configured issuer.") from error
        subject = claims["sub"]
        if not _SUBJECT.fullmatch(subject):
            raise _unauthorized(
                "The token's subject must be 1 to 200 printable ASCII characters without spaces at either end."
            )
        return Caller(subject, _scopes(claims)), expires_at

    async def _key_for(self, kid: Any) -> jwt.PyJWK:
        if kid not in self._keys:
            await self._reload_if_older_than(_MIN_FETCH_INTERVAL_SECONDS)
        if not self._keys:
            # The token may be valid, so 503 and not 401.
            raise unavailable("The keys of the token issuer are not available yet; retry.")
        if kid not in self._keys:
            raise jwt.InvalidKeyError("unknown key")
        return self._keys[kid]


def _token_of(authorization: str | None) -> str:
    """Return the token of an Authorization header. Raises Problem (unauthorized) if it has none."""
    if authorization is not None and len(authorization) <= _MAX_TOKEN_CHARACTERS:
        match = _BEARER.fullmatch(authorization)
        if match:
            return match[1]
    raise _unauthorized("Send a token in the Authorization header: Bearer <token>.")


def _parse_jwks(content: bytes) -> dict[str | None, jwt.PyJWK]:
    """Return the signature keys of a JWKS by id. Raises ValueError if it is not a JWKS or has none."""
    document = orjson.loads(content)
    entries = document.get("keys") if isinstance(document, dict) else None
    keys: dict[str | None, jwt.PyJWK] = {}
    ambiguous: set[str | None] = set()
    for entry in entries if isinstance(entries, list) else ():
        try:
            kid, key = _parse_key(entry)
        except (*_UNREADABLE, LookupError, AttributeError) as error:
            # An issuer may publish keys for other purposes.
            log.info("ignoring an unusable key in AUTH_JWKS: %s", type(error).__name__)
            continue
        if kid in keys and keys[kid].Algorithm.to_jwk(keys[kid].key) != key.Algorithm.to_jwk(key.key):
            ambiguous.add(kid)
        keys[kid] = key
    for kid in ambiguous:
        log.warning("AUTH_JWKS has different keys with the same kid, ignoring them")
        del keys[kid]
    if not keys:
        raise ValueError("AUTH_JWKS contains no usable key")
    return keys


def _parse_key(entry: dict[str, Any]) -> tuple[str | None, jwt.PyJWK]:
    """Return the id and the key of a JWKS entry. Raises an exception unless it is a key for token signatures."""
    algorithm = _ALGORITHM_OF_KEY_TYPE[entry["kty"]]
    kid = entry.get("kid")
    if not isinstance(kid, str | None) or entry.get("use", "sig") != "sig" or entry.get("alg", algorithm) != algorithm:
        raise ValueError("not a key for token signatures")
    if "verify" not in entry.get("key_ops", ["verify"]):
        raise ValueError("not a key for token signatures")
    key = jwt.PyJWK(entry, algorithm)
    if getattr(key.key, "key_size", _MIN_RSA_BITS) < _MIN_RSA_BITS:
        raise ValueError("RSA key too short")
    return kid, key


def _scopes(claims: dict[str, Any]) -> frozenset[str]:
    """Return the scopes of the string claim `scope` (RFC 9068); lists and `scp` are ignored."""
    scope = claims.get("scope")
    return frozenset(filter(_SCOPE.fullmatch, scope.split(" "))) if isinstance(scope, str) else frozenset()


def check_service_token(authorization: str | None, secret: str) -> None:
    """Raise Problem (unauthorized) unless the header contains the service token."""
    presented = (authorization or "").encode()
    if not hmac.compare_digest(presented, f"Bearer {secret}".encode()):
        raise _unauthorized("The service token is required.")
