from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="LimitsBody")


@_attrs_define
class LimitsBody:
    """Body of `POST /accounts/{id}/limits`; both limits are replaced.

    Attributes:
        overdraft_limit (int): How far the balance may go below zero, in minor units.
        daily_debit_limit (int | None): Maximum sum of debits per UTC day, in minor units; null for no limit.
    """

    overdraft_limit: int
    daily_debit_limit: int | None

    def to_dict(self) -> dict[str, Any]:
        overdraft_limit = self.overdraft_limit

        daily_debit_limit: int | None
        daily_debit_limit = self.daily_debit_limit

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "overdraft_limit": overdraft_limit,
                "daily_debit_limit": daily_debit_limit,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        overdraft_limit = d.pop("overdraft_limit")

        def _parse_daily_debit_limit(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        daily_debit_limit = _parse_daily_debit_limit(d.pop("daily_debit_limit"))

        limits_body = cls(
            overdraft_limit=overdraft_limit,
            daily_debit_limit=daily_debit_limit,
        )

        return limits_body
