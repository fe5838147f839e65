from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="BalanceView")


@_attrs_define
class BalanceView:
    """The balance of an account after its last entry at a time.

    Attributes:
        account_id (str):
        currency (str):
        balance (int):
        seq (int): Number of the last entry that is included; 0 before the first one.
        transaction_id (None | str): Transaction of this entry.
        posted_at (datetime.datetime | None): Time of this entry.
    """

    account_id: str
    currency: str
    balance: int
    seq: int
    transaction_id: None | str
    posted_at: datetime.datetime | None

    def to_dict(self) -> dict[str, Any]:
        account_id = self.account_id

        currency = self.currency

        balance = self.balance

        seq = self.seq

        transaction_id: None | str
        transaction_id = self.transaction_id

        posted_at: None | str
        if isinstance(self.posted_at, datetime.datetime):
            posted_at = self.posted_at.isoformat()
        else:
            posted_at = self.posted_at

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "account_id": account_id,
                "currency": currency,
                "balance": balance,
                "seq": seq,
                "transaction_id": transaction_id,
                "posted_at": posted_at,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        account_id = d.pop("account_id")

        currency = d.pop("currency")

        balance = d.pop("balance")

        seq = d.pop("seq")

        def _parse_transaction_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        transaction_id = _parse_transaction_id(d.pop("transaction_id"))

        def _parse_posted_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                posted_at_type_0 = datetime.datetime.fromisoformat(data)

                return posted_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        posted_at = _parse_posted_at(d.pop("posted_at"))

        balance_view = cls(
            account_id=account_id,
            currency=currency,
            balance=balance,
            seq=seq,
            transaction_id=transaction_id,
            posted_at=posted_at,
        )

        return balance_view
