from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.transfer_body import TransferBody


T = TypeVar("T", bound="GroupBody")


@_attrs_define
class GroupBody:
    """Body of `POST /transaction-groups`: transfers that are posted in order, all of them or none.

    Attributes:
        legs (list[TransferBody]):
    """

    legs: list[TransferBody]

    def to_dict(self) -> dict[str, Any]:
        legs = []
        for legs_item_data in self.legs:
            legs_item = legs_item_data.to_dict()
            legs.append(legs_item)

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "legs": legs,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.transfer_body import TransferBody  # noqa: PLC0415

        d = dict(src_dict)
        legs = []
        _legs = d.pop("legs")
        for legs_item_data in _legs:
            legs_item = TransferBody.from_dict(legs_item_data)

            legs.append(legs_item)

        group_body = cls(
            legs=legs,
        )

        return group_body
