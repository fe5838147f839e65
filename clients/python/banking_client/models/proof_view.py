from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="ProofView")


@_attrs_define
class ProofView:
    """Inclusion proof of a transaction (RFC 9162, section 2.1.3).

    Attributes:
        transaction_id (str):
        position (int): Position of the transaction's leaf in the Merkle tree, from 0.
        digests (list[str]): Contents of the leaf: SHA-256 of each disclosure, in hexadecimal.
        disclosures (list[str]): What the caller may see of the leaf: each is canonical JSON of salt, kind and columns
            of a row.
        size (int): Number of leaves of the root.
        path (list[str]): Hashes from the leaf to the root, in hexadecimal.
        checkpoint (str): Signed root of this size.
    """

    transaction_id: str
    position: int
    digests: list[str]
    disclosures: list[str]
    size: int
    path: list[str]
    checkpoint: str

    def to_dict(self) -> dict[str, Any]:
        transaction_id = self.transaction_id

        position = self.position

        digests = self.digests

        disclosures = self.disclosures

        size = self.size

        path = self.path

        checkpoint = self.checkpoint

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "transaction_id": transaction_id,
                "position": position,
                "digests": digests,
                "disclosures": disclosures,
                "size": size,
                "path": path,
                "checkpoint": checkpoint,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        transaction_id = d.pop("transaction_id")

        position = d.pop("position")

        digests = cast(list[str], d.pop("digests"))

        disclosures = cast(list[str], d.pop("disclosures"))

        size = d.pop("size")

        path = cast(list[str], d.pop("path"))

        checkpoint = d.pop("checkpoint")

        proof_view = cls(
            transaction_id=transaction_id,
            position=position,
            digests=digests,
            disclosures=disclosures,
            size=size,
            path=path,
            checkpoint=checkpoint,
        )

        return proof_view
