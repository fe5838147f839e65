from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="HoldChangeView")


@_attrs_define
class HoldChangeView:
    """A change of a hold and who made it.

    Attributes:
        action (str):
        made_by (str): `bank`: the hold has expired.
        subject (None | str): Subject of the token; null for customers if it was not the owner's.
        transaction_id (None | str): Transaction of a capture.
        amount (int | None): Amount of a capture.
        created_at (datetime.datetime):
    """

    action: str
    made_by: str
    subject: None | str
    transaction_id: None | str
    amount: int | None
    created_at: datetime.datetime

    def to_dict(self) -> dict[str, Any]:
        action = self.action

        made_by = self.made_by

        subject: None | str
        subject = self.subject

        transaction_id: None | str
        transaction_id = self.transaction_id

        amount: int | None
        amount = self.amount

        created_at = self.created_at.isoformat()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "action": action,
                "made_by": made_by,
                "subject": subject,
                "transaction_id": transaction_id,
                "amount": amount,
                "created_at": created_at,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        action = d.pop("action")

        made_by = d.pop("made_by")

        def _parse_subject(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        subject = _parse_subject(d.pop("subject"))

        def _parse_transaction_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        transaction_id = _parse_transaction_id(d.pop("transaction_id"))

        def _parse_amount(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        amount = _parse_amount(d.pop("amount"))

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        hold_change_view = cls(
            action=action,
            made_by=made_by,
            subject=subject,
            transaction_id=transaction_id,
            amount=amount,
            created_at=created_at,
        )

        return hold_change_view
