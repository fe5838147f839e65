from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="WatermarkView")


@_attrs_define
class WatermarkView:
    """The watermark of an account's history.

    Attributes:
        seq (int): Entries 1 to this one are present, without a gap.
        account_seq (int | None): The account's last entry; null if account-service was unavailable.
        as_of (datetime.datetime | None): Time of the query to account-service.
    """

    seq: int
    account_seq: int | None
    as_of: datetime.datetime | None

    def to_dict(self) -> dict[str, Any]:
        seq = self.seq

        account_seq: int | None
        account_seq = self.account_seq

        as_of: None | str
        if isinstance(self.as_of, datetime.datetime):
            as_of = self.as_of.isoformat()
        else:
            as_of = self.as_of

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "seq": seq,
                "account_seq": account_seq,
                "as_of": as_of,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        seq = d.pop("seq")

        def _parse_account_seq(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        account_seq = _parse_account_seq(d.pop("account_seq"))

        def _parse_as_of(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                as_of_type_0 = datetime.datetime.fromisoformat(data)

                return as_of_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        as_of = _parse_as_of(d.pop("as_of"))

        watermark_view = cls(
            seq=seq,
            account_seq=account_seq,
            as_of=as_of,
        )

        return watermark_view
