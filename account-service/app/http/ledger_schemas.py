"""Response bodies of the transparency log's API."""

from datetime import datetime

from pydantic import BaseModel, Field


class RootView(BaseModel):
    """A signed root of the ledger."""

    id: str
    size: int = Field(description="Number of transactions in the Merkle tree.")
    root_hash: str = Field(description="Root hash (RFC 9162), in hexadecimal.")
    created_at: datetime
    checkpoint: str = Field(description="Root with its signatures, as a signed note (C2SP tlog-checkpoint).")


class RootPage(BaseModel):
    """A page of roots."""

    items: list[RootView]
    next_cursor: str | None
    public_keys: list[str] = Field(
        description="All keys that have signed roots, newest first, as verifier keys: origin, key id and Ed25519 key. "
        "Compare them with the announced ones."
    )


class ProofView(BaseModel):
    """Inclusion proof of a transaction (RFC 9162, section 2.1.3)."""

    transaction_id: str
    position: int = Field(description="Position of the transaction's leaf in the Merkle tree, from 0.")
    digests: list[str] = Field(description="Contents of the leaf: SHA-256 of each disclosure, in hexadecimal.")
    disclosures: list[str] = Field(
        description="What the caller may see of the leaf: each is canonical JSON of salt, kind and columns of a row."
    )
    size: int = Field(description="Number of leaves of the root.")
    path: list[str] = Field(description="Hashes from the leaf to the root, in hexadecimal.")
    checkpoint: str = Field(description="Signed root of this size.")


class ConsistencyView(BaseModel):
    """Proof that the tree of one root is the beginning of another one (RFC 9162, section 2.1.4)."""

    first: int
    second: int
    path: list[str] = Field(description="Hashes in hexadecimal.")
