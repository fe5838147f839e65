from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.hold_change_view import HoldChangeView


T = TypeVar("T", bound="HoldDetailView")


@_attrs_define
class HoldDetailView:
    """A hold with its changes.

    Attributes:
        id (str):
        account_id (str):
        amount (int): Amount that was reserved when the hold was placed.
        captured_amount (int): Sum of the captures.
        remaining_amount (int): Amount that is still reserved; 0 once the hold has ended.
        currency (str):
        status (str):
        expires_at (datetime.datetime):
        transaction_id (None | str): Transaction of the last capture.
        created_at (datetime.datetime):
        changes (list[HoldChangeView]): The newest 100 changes, newest first.
        placed_by (None | str | Unset): Who placed the hold; null if an earlier version did not record it. Only
            operators can capture, extend or void a hold with `operator` or null.
    """

    id: str
    account_id: str
    amount: int
    captured_amount: int
    remaining_amount: int
    currency: str
    status: str
    expires_at: datetime.datetime
    transaction_id: None | str
    created_at: datetime.datetime
    changes: list[HoldChangeView]
    placed_by: None | str | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        account_id = self.account_id

        amount = self.amount

        captured_amount = self.captured_amount

        remaining_amount = self.remaining_amount

        currency = self.currency

        status = self.status

        expires_at = self.expires_at.isoformat()

        transaction_id: None | str
        transaction_id = self.transaction_id

        created_at = self.created_at.isoformat()

        changes = []
        for changes_item_data in self.changes:
            changes_item = changes_item_data.to_dict()
            changes.append(changes_item)

        placed_by: None | str | Unset
        if isinstance(self.placed_by, Unset):
            placed_by = UNSET
        else:
            placed_by = self.placed_by

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "id": id,
                "account_id": account_id,
                "amount": amount,
                "captured_amount": captured_amount,
                "remaining_amount": remaining_amount,
                "currency": currency,
                "status": status,
                "expires_at": expires_at,
                "transaction_id": transaction_id,
                "created_at": created_at,
                "changes": changes,
            }
        )
        if placed_by is not UNSET:
            field_dict["placed_by"] = placed_by

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.hold_change_view import HoldChangeView  # noqa: PLC0415

        d = dict(src_dict)
        id = d.pop("id")

        account_id = d.pop("account_id")

        amount = d.pop("amount")

        captured_amount = d.pop("captured_amount")

        remaining_amount = d.pop("remaining_amount")

        currency = d.pop("currency")

        status = d.pop("status")

        expires_at = datetime.datetime.fromisoformat(d.pop("expires_at"))

        def _parse_transaction_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        transaction_id = _parse_transaction_id(d.pop("transaction_id"))

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        changes = []
        _changes = d.pop("changes")
        for changes_item_data in _changes:
            changes_item = HoldChangeView.from_dict(changes_item_data)

            changes.append(changes_item)

        def _parse_placed_by(data: object) -> None | str | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(None | str | Unset, data)

        placed_by = _parse_placed_by(d.pop("placed_by", UNSET))

        hold_detail_view = cls(
            id=id,
            account_id=account_id,
            amount=amount,
            captured_amount=captured_amount,
            remaining_amount=remaining_amount,
            currency=currency,
            status=status,
            expires_at=expires_at,
            transaction_id=transaction_id,
            created_at=created_at,
            changes=changes,
            placed_by=placed_by,
        )

        return hold_detail_view
