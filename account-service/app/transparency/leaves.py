"""Leaves of the transparency log: a posted transaction and its entries as canonical bytes.

A row becomes a disclosure, the canonical JSON (RFC 8785) of [salt, kind, columns]; a leaf is the concatenation of the
SHA-256 digests of its disclosures. Without the salt, a digest reveals nothing: an owner verifies a transaction with the
disclosures of what the owner may see.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson

from shared.ids import rfc3339

Row = Mapping[str, Any]

SALT_BYTES = 16
# What both parties of a transaction see; its other columns, also later ones, are for operators.
PUBLIC_COLUMNS = frozenset(
    ("id", "type", "amount", "currency", "from_account", "to_account", "reference", "reverses", "created_at")
)


@dataclass(frozen=True, slots=True)
class Disclosure:
    """The columns of a row, or of a part of it; `account_id` is the account of an entry."""

    text: bytes
    account_id: str | None
    internal: bool = False

    def is_visible(self, accounts: Set[str], *, is_operator: bool) -> bool:
        """Return whether a caller who owns these accounts of the transaction may see it."""
        if self.internal:
            return is_operator
        return self.account_id is None or self.account_id in accounts

    @property
    def digest(self) -> bytes:
        """The digest in the leaf."""
        return sha256(self.text).digest()


def disclosures(transaction: Row, entries: Iterable[Row], salt: bytes) -> list[Disclosure]:
    """Return the disclosures of a transaction and its entries, in the order of their digests in the leaf."""
    public: dict[str, Any] = {}
    internal: dict[str, Any] = {}
    for name, value in transaction.items():
        (public if name in PUBLIC_COLUMNS else internal)[name] = value
    ordered = sorted(entries, key=lambda entry: (entry["account_id"], entry["seq"]))
    rows = [("transaction", public), ("internal", internal), *(("entry", entry) for entry in ordered)]
    return [
        Disclosure(_canonical(salt, index, kind, row), row.get("account_id"), kind == "internal")
        for index, (kind, row) in enumerate(rows)
    ]


def leaf_data(parts: Sequence[Disclosure]) -> bytes:
    """Return the bytes of a leaf."""
    return b"".join([part.digest for part in parts])


def _canonical(salt: bytes, index: int, kind: str, row: Row) -> bytes:
    # Each disclosure has its own salt: who knows one cannot guess the content of the others.
    own_salt = sha256(salt + bytes([index])).hexdigest()[: 2 * SALT_BYTES]
    # Without nulls: a column that is added later changes no earlier leaf.
    columns = {name: value for name, value in row.items() if value is not None}
    return orjson.dumps([own_salt, kind, columns], _plain, orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME)


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return rfc3339(value)
    raise TypeError(f"a column of type {type(value).__name__} has no canonical form")
