from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="EntryView")


@_attrs_define
class EntryView:
    """One side of a transaction; `seq` and `balance_after` are null if the account belongs to another owner.

    Attributes:
        account_id (str):
        amount (int):
        seq (int | None):
        balance_after (int | None):
    """

    account_id: str
    amount: int
    seq: int | None
    balance_after: int | None

    def to_dict(self) -> dict[str, Any]:
        account_id = self.account_id

        amount = self.amount

        seq: int | None
        seq = self.seq

        balance_after: int | None
        balance_after = self.balance_after

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "account_id": account_id,
                "amount": amount,
                "seq": seq,
                "balance_after": balance_after,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        account_id = d.pop("account_id")

        amount = d.pop("amount")

        def _parse_seq(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        seq = _parse_seq(d.pop("seq"))

        def _parse_balance_after(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        balance_after = _parse_balance_after(d.pop("balance_after"))

        entry_view = cls(
            account_id=account_id,
            amount=amount,
            seq=seq,
            balance_after=balance_after,
        )

        return entry_view
