"""Checkpoints: signed Merkle roots in the formats of transparency logs (C2SP tlog-checkpoint and signed-note).

origin of the log
number of leaves
root hash, in base64
time of the signature
(empty line)
— origin signature, in base64    (one line for each key)
"""

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.ids import rfc3339

_ED25519 = b"\1"
_PEM = re.compile(r"-----BEGIN PRIVATE KEY-----.+?-----END PRIVATE KEY-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The root of the tree of the first `size` leaves."""

    origin: str
    size: int
    root_hash: bytes
    created_at: datetime

    @property
    def text(self) -> str:
        """The text that is signed."""
        root = b64encode(self.root_hash).decode()
        return f"{self.origin}\n{self.size}\n{root}\n{rfc3339(self.created_at)}\n"

    @classmethod
    def parse(cls, note: str) -> Self:
        """Read a checkpoint from a signed note, without checking its signatures. Raises ValueError."""
        origin, size, root, created_at = note.partition("\n\n")[0].split("\n")
        return cls(origin, int(size), b64decode(root, validate=True), datetime.fromisoformat(created_at))


class Signer:
    """Signs the checkpoints of one log with every key of a PEM text: during a rotation, the new and the old one."""

    def __init__(self, origin: str, pem: str) -> None:
        """Read the keys. Raises ValueError if there is none, or one is not an Ed25519 key."""
        self.origin = origin
        self._keys: list[Ed25519PrivateKey] = []
        for block in _PEM.findall(pem):
            key = serialization.load_pem_private_key(block.encode(), password=None)
            if not isinstance(key, Ed25519PrivateKey):
                raise ValueError("contains a key that is not an Ed25519 key")
            self._keys.append(key)
        if not self._keys:
            raise ValueError("contains no private key in PEM (PKCS #8)")

    @property
    def public_keys(self) -> list[str]:
        """The public keys as verifier keys (signed-note): origin, key id and key."""
        return [f"{self.origin}+{_key_id(self.origin, raw).hex()}+{_base64(_ED25519 + raw)}" for raw in self._raw()]

    def sign(self, size: int, root_hash: bytes, now: datetime) -> str:
        """Return a checkpoint as a signed note."""
        text = Checkpoint(self.origin, size, root_hash, now).text
        signatures = [
            f"— {self.origin} {_base64(_key_id(self.origin, raw) + key.sign(text.encode()))}\n"
            for key, raw in zip(self._keys, self._raw(), strict=True)
        ]
        return f"{text}\n{''.join(signatures)}"

    def _raw(self) -> list[bytes]:
        return [key.public_key().public_bytes_raw() for key in self._keys]


def _key_id(origin: str, raw: bytes) -> bytes:
    return sha256(f"{origin}\n".encode() + _ED25519 + raw).digest()[:4]


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
