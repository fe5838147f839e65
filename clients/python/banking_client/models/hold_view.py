from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.transaction_view import TransactionView


T = TypeVar("T", bound="HoldView")


@_attrs_define
class HoldView:
    """A hold; the response to its capture has the `transaction`.

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
        placed_by (None | str | Unset): Who placed the hold; null if an earlier version did not record it. Only
            operators can capture, extend or void a hold with `operator` or null.
        transaction (None | TransactionView | Unset):
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
    placed_by: None | str | Unset = UNSET
    transaction: None | TransactionView | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        from ..models.transaction_view import TransactionView  # noqa: PLC0415

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

        placed_by: None | str | Unset
        if isinstance(self.placed_by, Unset):
            placed_by = UNSET
        else:
            placed_by = self.placed_by

        transaction: dict[str, Any] | None | Unset
        if isinstance(self.transaction, Unset):
            transaction = UNSET
        elif isinstance(self.transaction, TransactionView):
            transaction = self.transaction.to_dict()
        else:
            transaction = self.transaction

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
            }
        )
        if placed_by is not UNSET:
            field_dict["placed_by"] = placed_by
        if transaction is not UNSET:
            field_dict["transaction"] = transaction

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.transaction_view import TransactionView  # noqa: PLC0415

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

        def _parse_placed_by(data: object) -> None | str | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(None | str | Unset, data)

        placed_by = _parse_placed_by(d.pop("placed_by", UNSET))

        def _parse_transaction(data: object) -> None | TransactionView | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                transaction_type_0 = TransactionView.from_dict(data)

                return transaction_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(None | TransactionView | Unset, data)

        transaction = _parse_transaction(d.pop("transaction", UNSET))

        hold_view = cls(
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
            placed_by=placed_by,
            transaction=transaction,
        )

        return hold_view
