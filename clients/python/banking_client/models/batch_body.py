from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.batch_item_body import BatchItemBody


T = TypeVar("T", bound="BatchBody")


@_attrs_define
class BatchBody:
    """Body of `POST /transfers:batch`.

    Attributes:
        transfers (list[BatchItemBody]):
        atomic (bool | None | Unset): True executes all transfers or none; by default a refused one does not stop the
            others.
    """

    transfers: list[BatchItemBody]
    atomic: bool | None | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        transfers = []
        for transfers_item_data in self.transfers:
            transfers_item = transfers_item_data.to_dict()
            transfers.append(transfers_item)

        atomic: bool | None | Unset
        if isinstance(self.atomic, Unset):
            atomic = UNSET
        else:
            atomic = self.atomic

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "transfers": transfers,
            }
        )
        if atomic is not UNSET:
            field_dict["atomic"] = atomic

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.batch_item_body import BatchItemBody  # noqa: PLC0415

        d = dict(src_dict)
        transfers = []
        _transfers = d.pop("transfers")
        for transfers_item_data in _transfers:
            transfers_item = BatchItemBody.from_dict(transfers_item_data)

            transfers.append(transfers_item)

        def _parse_atomic(data: object) -> bool | None | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(bool | None | Unset, data)

        atomic = _parse_atomic(d.pop("atomic", UNSET))

        batch_body = cls(
            transfers=transfers,
            atomic=atomic,
        )

        return batch_body
