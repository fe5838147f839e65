from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

T = TypeVar("T", bound="BatchItemBody")


@_attrs_define
class BatchItemBody:
    """One transfer of a batch; `key` is its idempotency key.

    Attributes:
        from_account (str):
        to_account (str):
        amount (int): Amount in minor units, for example cents.
        currency (str): ISO 4217 code; must be the currency of the account.
        key (str):
        reference (None | str | Unset):
    """

    from_account: str
    to_account: str
    amount: int
    currency: str
    key: str
    reference: None | str | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        from_account = self.from_account

        to_account = self.to_account

        amount = self.amount

        currency = self.currency

        key = self.key

        reference: None | str | Unset
        if isinstance(self.reference, Unset):
            reference = UNSET
        else:
            reference = self.reference

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "from_account": from_account,
                "to_account": to_account,
                "amount": amount,
                "currency": currency,
                "key": key,
            }
        )
        if reference is not UNSET:
            field_dict["reference"] = reference

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        from_account = d.pop("from_account")

        to_account = d.pop("to_account")

        amount = d.pop("amount")

        currency = d.pop("currency")

        key = d.pop("key")

        def _parse_reference(data: object) -> None | str | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(None | str | Unset, data)

        reference = _parse_reference(d.pop("reference", UNSET))

        batch_item_body = cls(
            from_account=from_account,
            to_account=to_account,
            amount=amount,
            currency=currency,
            key=key,
            reference=reference,
        )

        return batch_item_body
