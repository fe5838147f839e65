from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.transaction_view import TransactionView


T = TypeVar("T", bound="GroupView")


@_attrs_define
class GroupView:
    """A posted transaction group.

    Attributes:
        id (str):
        legs (list[TransactionView]): The transactions in the order in which they were posted.
    """

    id: str
    legs: list[TransactionView]

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        legs = []
        for legs_item_data in self.legs:
            legs_item = legs_item_data.to_dict()
            legs.append(legs_item)

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "id": id,
                "legs": legs,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.transaction_view import TransactionView  # noqa: PLC0415

        d = dict(src_dict)
        id = d.pop("id")

        legs = []
        _legs = d.pop("legs")
        for legs_item_data in _legs:
            legs_item = TransactionView.from_dict(legs_item_data)

            legs.append(legs_item)

        group_view = cls(
            id=id,
            legs=legs,
        )

        return group_view
