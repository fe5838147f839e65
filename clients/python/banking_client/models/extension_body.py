from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="ExtensionBody")


@_attrs_define
class ExtensionBody:
    """Body of `POST /holds/{id}/extensions`.

    Attributes:
        expires_in (int): Time until the hold expires, in seconds from now.
    """

    expires_in: int

    def to_dict(self) -> dict[str, Any]:
        expires_in = self.expires_in

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "expires_in": expires_in,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        expires_in = d.pop("expires_in")

        extension_body = cls(
            expires_in=expires_in,
        )

        return extension_body
