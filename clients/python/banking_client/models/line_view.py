from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="LineView")


@_attrs_define
class LineView:
    """One entry of a statement.

    Attributes:
        transaction_id (str):
        type_ (str):
        seq (int):
        amount (int):
        balance_after (int):
        counterparty (None | str):
        reference (None | str):
        created_at (datetime.datetime):
    """

    transaction_id: str
    type_: str
    seq: int
    amount: int
    balance_after: int
    counterparty: None | str
    reference: None | str
    created_at: datetime.datetime

    def to_dict(self) -> dict[str, Any]:
        transaction_id = self.transaction_id

        type_ = self.type_

        seq = self.seq

        amount = self.amount

        balance_after = self.balance_after

        counterparty: None | str
        counterparty = self.counterparty

        reference: None | str
        reference = self.reference

        created_at = self.created_at.isoformat()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "transaction_id": transaction_id,
                "type": type_,
                "seq": seq,
                "amount": amount,
                "balance_after": balance_after,
                "counterparty": counterparty,
                "reference": reference,
                "created_at": created_at,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        transaction_id = d.pop("transaction_id")

        type_ = d.pop("type")

        seq = d.pop("seq")

        amount = d.pop("amount")

        balance_after = d.pop("balance_after")

        def _parse_counterparty(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        counterparty = _parse_counterparty(d.pop("counterparty"))

        def _parse_reference(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        reference = _parse_reference(d.pop("reference"))

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        line_view = cls(
            transaction_id=transaction_id,
            type_=type_,
            seq=seq,
            amount=amount,
            balance_after=balance_after,
            counterparty=counterparty,
            reference=reference,
            created_at=created_at,
        )

        return line_view
