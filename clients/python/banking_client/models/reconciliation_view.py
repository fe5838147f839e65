from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.mismatch_view import MismatchView


T = TypeVar("T", bound="ReconciliationView")


@_attrs_define
class ReconciliationView:
    """Result of comparing all accounts; `pending` ones miss recent entries only.

    Attributes:
        checked (int):
        mismatches (int):
        pending (int):
        items (list[MismatchView]): The mismatching accounts, at most 100.
        checked_at (datetime.datetime):
    """

    checked: int
    mismatches: int
    pending: int
    items: list[MismatchView]
    checked_at: datetime.datetime

    def to_dict(self) -> dict[str, Any]:
        checked = self.checked

        mismatches = self.mismatches

        pending = self.pending

        items = []
        for items_item_data in self.items:
            items_item = items_item_data.to_dict()
            items.append(items_item)

        checked_at = self.checked_at.isoformat()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "checked": checked,
                "mismatches": mismatches,
                "pending": pending,
                "items": items,
                "checked_at": checked_at,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.mismatch_view import MismatchView  # noqa: PLC0415

        d = dict(src_dict)
        checked = d.pop("checked")

        mismatches = d.pop("mismatches")

        pending = d.pop("pending")

        items = []
        _items = d.pop("items")
        for items_item_data in _items:
            items_item = MismatchView.from_dict(items_item_data)

            items.append(items_item)

        checked_at = datetime.datetime.fromisoformat(d.pop("checked_at"))

        reconciliation_view = cls(
            checked=checked,
            mismatches=mismatches,
            pending=pending,
            items=items,
            checked_at=checked_at,
        )

        return reconciliation_view
