from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.history_transaction_view import HistoryTransactionView


T = TypeVar("T", bound="TransactionPage")


@_attrs_define
class TransactionPage:
    """A page of transactions. Completeness covers posted ones; refused ones have no `seq`.

    Attributes:
        items (list[HistoryTransactionView]):
        next_cursor (None | str):
        complete (bool): True only if all entries before `to` (or before the request) are known to be included, compared
            with account-service. False while entries are pending, or if this is unknown.
        complete_through (datetime.datetime | None): All entries posted before this time are included; null if unknown.
    """

    items: list[HistoryTransactionView]
    next_cursor: None | str
    complete: bool
    complete_through: datetime.datetime | None

    def to_dict(self) -> dict[str, Any]:
        items = []
        for items_item_data in self.items:
            items_item = items_item_data.to_dict()
            items.append(items_item)

        next_cursor: None | str
        next_cursor = self.next_cursor

        complete = self.complete

        complete_through: None | str
        if isinstance(self.complete_through, datetime.datetime):
            complete_through = self.complete_through.isoformat()
        else:
            complete_through = self.complete_through

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "items": items,
                "next_cursor": next_cursor,
                "complete": complete,
                "complete_through": complete_through,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.history_transaction_view import HistoryTransactionView  # noqa: PLC0415

        d = dict(src_dict)
        items = []
        _items = d.pop("items")
        for items_item_data in _items:
            items_item = HistoryTransactionView.from_dict(items_item_data)

            items.append(items_item)

        def _parse_next_cursor(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        next_cursor = _parse_next_cursor(d.pop("next_cursor"))

        complete = d.pop("complete")

        def _parse_complete_through(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                complete_through_type_0 = datetime.datetime.fromisoformat(data)

                return complete_through_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        complete_through = _parse_complete_through(d.pop("complete_through"))

        transaction_page = cls(
            items=items,
            next_cursor=next_cursor,
            complete=complete,
            complete_through=complete_through,
        )

        return transaction_page
