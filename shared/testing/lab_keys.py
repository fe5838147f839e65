"""The lab issuer for development: creates a signing key, its JWKS and the service token on first use; signs tokens.

    python -m shared.testing.lab_keys SUBJECT [--scope "bank:operator …"] [--ttl SECONDS]

prints one token. Production uses a real issuer and none of these secrets.
"""

import argparse
import json
import os
import secrets
import sys
import time
import uuid
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from jwt.utils import base64url_encode

from shared.testing.paths import ROOT

ISSUER = "banking-lab"
AUDIENCE = "banking"
# Every lab token includes the cash desk scope, because accounts must be credited before money can move.
DEFAULT_SCOPE = "bank:deposit"
DEFAULT_TTL = 12 * 3600


@dataclass(frozen=True, slots=True)
class LabSecrets:
    """Paths of the secrets; `key` signs tokens, `ledger_key` the roots of the ledger, `webhook_key` webhooks."""

    key: Path
    jwks: Path
    service_token: Path
    ledger_key: Path
    webhook_key: Path


def var_dir() -> Path:
    """Return the data directory of the local stack: VAR_DIR, or var/ in the project."""
    return Path(os.environ.get("VAR_DIR") or ROOT / "var").absolute()


def ensure(directory: Path) -> LabSecrets:
    """Create missing secrets and return their paths. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = ("lab-key.pem", "jwks.json", "service-token", "ledger-key.pem", "webhook-key")
    files = LabSecrets(*(directory / name for name in names))
    for key in (files.key, files.ledger_key):
        if not key.exists():
            pem = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            _create(key, pem)
    for token in (files.service_token, files.webhook_key):
        if not token.exists():
            _create(token, secrets.token_urlsafe(32).encode())
    if not files.jwks.exists():
        _create(files.jwks, json.dumps({"keys": [_public_jwk(_load(files.key))]}).encode())
    return files


def sign(key: Path, subject: str, scope: str = "", ttl: int = DEFAULT_TTL) -> str:
    """Return a token for the subject with the given scopes and the default scope."""
    private = _load(key)
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": now,
        "exp": now + ttl,
        "jti": str(uuid.uuid4()),
        "scope": " ".join(dict.fromkeys([*DEFAULT_SCOPE.split(), *scope.split()])),
    }
    return jwt.encode(claims, private, "EdDSA", {"kid": _public_jwk(private)["kid"]})


def _create(path: Path, content: bytes) -> None:
    # Write a temporary file and link it: concurrent first uses agree on one file, and none reads a partial one.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _load(path: Path) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} does not contain an Ed25519 key")
    return key


def _public_jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    jwk: dict[str, str] = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    # The thumbprint (RFC 7638) is defined over exactly these members in this order.
    canonical = json.dumps({name: jwk[name] for name in ("crv", "kty", "x")}, separators=(",", ":"))
    kid = base64url_encode(sha256(canonical.encode()).digest()).decode()
    return {"kty": jwk["kty"], "crv": jwk["crv"], "x": jwk["x"], "use": "sig", "alg": "EdDSA", "kid": kid}


def main() -> int:
    """Print a token."""
    parser = argparse.ArgumentParser(prog="lab_keys", description="Print a bearer token of the lab issuer.")
    parser.add_argument("subject", help="subject of the token, e.g. alice")
    parser.add_argument("--scope", default="", help=f"scopes to add to {DEFAULT_SCOPE}, e.g. bank:operator")
    parser.add_argument("--ttl", default=str(DEFAULT_TTL), help="lifetime in seconds (default 12 hours)")
    arguments = parser.parse_args()
    subject = arguments.subject
    if not 1 <= len(subject) <= 200 or not (subject.isascii() and subject.isprintable()) or subject != subject.strip():
        print(
            "token: the subject must be 1 to 200 printable ASCII characters; run: make token SUB=alice", file=sys.stderr
        )
        return 1
    try:
        # A negative value gives an expired token, which tests need.
        ttl = int(arguments.ttl)
    except ValueError:
        print(f"token: TTL must be a number of seconds, not {arguments.ttl!r}", file=sys.stderr)
        return 1
    try:
        key = ensure(var_dir() / "secrets").key
        print(sign(key, arguments.subject, arguments.scope, ttl))
    except (OSError, ValueError) as error:
        print(f"token: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
