from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="ConsistencyView")


@_attrs_define
class ConsistencyView:
    """Proof that the tree of one root is the beginning of another one (RFC 9162, section 2.1.4).

    Attributes:
        first (int):
        second (int):
        path (list[str]): Hashes in hexadecimal.
    """

    first: int
    second: int
    path: list[str]

    def to_dict(self) -> dict[str, Any]:
        first = self.first

        second = self.second

        path = self.path

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "first": first,
                "second": second,
                "path": path,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        first = d.pop("first")

        second = d.pop("second")

        path = cast(list[str], d.pop("path"))

        consistency_view = cls(
            first=first,
            second=second,
            path=path,
        )

        return consistency_view
