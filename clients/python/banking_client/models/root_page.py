from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.root_view import RootView


T = TypeVar("T", bound="RootPage")


@_attrs_define
class RootPage:
    """A page of roots.

    Attributes:
        items (list[RootView]):
        next_cursor (None | str):
        public_keys (list[str]): All keys that have signed roots, newest first, as verifier keys: origin, key id and
            Ed25519 key. Compare them with the announced ones.
    """

    items: list[RootView]
    next_cursor: None | str
    public_keys: list[str]

    def to_dict(self) -> dict[str, Any]:
        items = []
        for items_item_data in self.items:
            items_item = items_item_data.to_dict()
            items.append(items_item)

        next_cursor: None | str
        next_cursor = self.next_cursor

        public_keys = self.public_keys

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "items": items,
                "next_cursor": next_cursor,
                "public_keys": public_keys,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.root_view import RootView  # noqa: PLC0415

        d = dict(src_dict)
        items = []
        _items = d.pop("items")
        for items_item_data in _items:
            items_item = RootView.from_dict(items_item_data)

            items.append(items_item)

        def _parse_next_cursor(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        next_cursor = _parse_next_cursor(d.pop("next_cursor"))

        public_keys = cast(list[str], d.pop("public_keys"))

        root_page = cls(
            items=items,
            next_cursor=next_cursor,
            public_keys=public_keys,
        )

        return root_page
