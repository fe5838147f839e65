from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="RootView")


@_attrs_define
class RootView:
    """A signed root of the ledger.

    Attributes:
        id (str):
        size (int): Number of transactions in the Merkle tree.
        root_hash (str): Root hash (RFC 9162), in hexadecimal.
        created_at (datetime.datetime):
        checkpoint (str): Root with its signatures, as a signed note (C2SP tlog-checkpoint).
    """

    id: str
    size: int
    root_hash: str
    created_at: datetime.datetime
    checkpoint: str

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        size = self.size

        root_hash = self.root_hash

        created_at = self.created_at.isoformat()

        checkpoint = self.checkpoint

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "id": id,
                "size": size,
                "root_hash": root_hash,
                "created_at": created_at,
                "checkpoint": checkpoint,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        id = d.pop("id")

        size = d.pop("size")

        root_hash = d.pop("root_hash")

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        checkpoint = d.pop("checkpoint")

        root_view = cls(
            id=id,
            size=size,
            root_hash=root_hash,
            created_at=created_at,
            checkpoint=checkpoint,
        )

        return root_view
