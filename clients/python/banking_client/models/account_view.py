from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.metadata import Metadata


T = TypeVar("T", bound="AccountView")


@_attrs_define
class AccountView:
    """An account.

    Attributes:
        id (str):
        account_number (str):
        owner (str):
        name (None | str):
        currency (str):
        status (str):
        balance (int):
        held (int):
        available (int): What can be spent: `balance` − `held` + `overdraft_limit`.
        overdraft_limit (int):
        daily_debit_limit (int | None): Null if there is no limit.
        seq (int):
        created_at (datetime.datetime):
        metadata (Metadata | None | Unset): Only present if it was given.
    """

    id: str
    account_number: str
    owner: str
    name: None | str
    currency: str
    status: str
    balance: int
    held: int
    available: int
    overdraft_limit: int
    daily_debit_limit: int | None
    seq: int
    created_at: datetime.datetime
    metadata: Metadata | None | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        from ..models.metadata import Metadata  # noqa: PLC0415

        id = self.id

        account_number = self.account_number

        owner = self.owner

        name: None | str
        name = self.name

        currency = self.currency

        status = self.status

        balance = self.balance

        held = self.held

        available = self.available

        overdraft_limit = self.overdraft_limit

        daily_debit_limit: int | None
        daily_debit_limit = self.daily_debit_limit

        seq = self.seq

        created_at = self.created_at.isoformat()

        metadata: dict[str, Any] | None | Unset
        if isinstance(self.metadata, Unset):
            metadata = UNSET
        elif isinstance(self.metadata, Metadata):
            metadata = self.metadata.to_dict()
        else:
            metadata = self.metadata

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "id": id,
                "account_number": account_number,
                "owner": owner,
                "name": name,
                "currency": currency,
                "status": status,
                "balance": balance,
                "held": held,
                "available": available,
                "overdraft_limit": overdraft_limit,
                "daily_debit_limit": daily_debit_limit,
                "seq": seq,
                "created_at": created_at,
            }
        )
        if metadata is not UNSET:
            field_dict["metadata"] = metadata

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.metadata import Metadata  # noqa: PLC0415

        d = dict(src_dict)
        id = d.pop("id")

        account_number = d.pop("account_number")

        owner = d.pop("owner")

        def _parse_name(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        name = _parse_name(d.pop("name"))

        currency = d.pop("currency")

        status = d.pop("status")

        balance = d.pop("balance")

        held = d.pop("held")

        available = d.pop("available")

        overdraft_limit = d.pop("overdraft_limit")

        def _parse_daily_debit_limit(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        daily_debit_limit = _parse_daily_debit_limit(d.pop("daily_debit_limit"))

        seq = d.pop("seq")

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        def _parse_metadata(data: object) -> Metadata | None | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            try:
                if not isinstance(data, dict):
                    raise TypeError()
                metadata_type_0 = Metadata.from_dict(data)

                return metadata_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(Metadata | None | Unset, data)

        metadata = _parse_metadata(d.pop("metadata", UNSET))

        account_view = cls(
            id=id,
            account_number=account_number,
            owner=owner,
            name=name,
            currency=currency,
            status=status,
            balance=balance,
            held=held,
            available=available,
            overdraft_limit=overdraft_limit,
            daily_debit_limit=daily_debit_limit,
            seq=seq,
            created_at=created_at,
            metadata=metadata,
        )

        return account_view
