from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="MismatchView")


@_attrs_define
class MismatchView:
    """An account whose history differs from account-service's balance.

    Attributes:
        account_id (str):
        kind (str):
        seq (int):
        account_service_seq (int):
        balance (int):
        account_service_balance (int):
    """

    account_id: str
    kind: str
    seq: int
    account_service_seq: int
    balance: int
    account_service_balance: int

    def to_dict(self) -> dict[str, Any]:
        account_id = self.account_id

        kind = self.kind

        seq = self.seq

        account_service_seq = self.account_service_seq

        balance = self.balance

        account_service_balance = self.account_service_balance

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "account_id": account_id,
                "kind": kind,
                "seq": seq,
                "account_service_seq": account_service_seq,
                "balance": balance,
                "account_service_balance": account_service_balance,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        account_id = d.pop("account_id")

        kind = d.pop("kind")

        seq = d.pop("seq")

        account_service_seq = d.pop("account_service_seq")

        balance = d.pop("balance")

        account_service_balance = d.pop("account_service_balance")

        mismatch_view = cls(
            account_id=account_id,
            kind=kind,
            seq=seq,
            account_service_seq=account_service_seq,
            balance=balance,
            account_service_balance=account_service_balance,
        )

        return mismatch_view
