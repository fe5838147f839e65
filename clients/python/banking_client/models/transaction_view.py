from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

if TYPE_CHECKING:
    from ..models.entry_view import EntryView
    from ..models.metadata import Metadata


T = TypeVar("T", bound="TransactionView")


@_attrs_define
class TransactionView:
    """A posted transaction.

    Attributes:
        id (str):
        type_ (str):
        status (str):
        amount (int):
        currency (str):
        from_account (str):
        to_account (str):
        reference (None | str):
        reverses (None | str):
        entries (list[EntryView]):
        created_at (datetime.datetime):
        metadata (Metadata | None | Unset): Only present if it was given.
        group_id (None | str | Unset): Only present if the transaction is a leg of a group.
    """

    id: str
    type_: str
    status: str
    amount: int
    currency: str
    from_account: str
    to_account: str
    reference: None | str
    reverses: None | str
    entries: list[EntryView]
    created_at: datetime.datetime
    metadata: Metadata | None | Unset = UNSET
    group_id: None | str | Unset = UNSET

    def to_dict(self) -> dict[str, Any]:
        from ..models.metadata import Metadata  # noqa: PLC0415

        id = self.id

        type_ = self.type_

        status = self.status

        amount = self.amount

        currency = self.currency

        from_account = self.from_account

        to_account = self.to_account

        reference: None | str
        reference = self.reference

        reverses: None | str
        reverses = self.reverses

        entries = []
        for entries_item_data in self.entries:
            entries_item = entries_item_data.to_dict()
            entries.append(entries_item)

        created_at = self.created_at.isoformat()

        metadata: dict[str, Any] | None | Unset
        if isinstance(self.metadata, Unset):
            metadata = UNSET
        elif isinstance(self.metadata, Metadata):
            metadata = self.metadata.to_dict()
        else:
            metadata = self.metadata

        group_id: None | str | Unset
        if isinstance(self.group_id, Unset):
            group_id = UNSET
        else:
            group_id = self.group_id

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "id": id,
                "type": type_,
                "status": status,
                "amount": amount,
                "currency": currency,
                "from_account": from_account,
                "to_account": to_account,
                "reference": reference,
                "reverses": reverses,
                "entries": entries,
                "created_at": created_at,
            }
        )
        if metadata is not UNSET:
            field_dict["metadata"] = metadata
        if group_id is not UNSET:
            field_dict["group_id"] = group_id

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.entry_view import EntryView  # noqa: PLC0415
        from ..models.metadata import Metadata  # noqa: PLC0415

        d = dict(src_dict)
        id = d.pop("id")

        type_ = d.pop("type")

        status = d.pop("status")

        amount = d.pop("amount")

        currency = d.pop("currency")

        from_account = d.pop("from_account")

        to_account = d.pop("to_account")

        def _parse_reference(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        reference = _parse_reference(d.pop("reference"))

        def _parse_reverses(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        reverses = _parse_reverses(d.pop("reverses"))

        entries = []
        _entries = d.pop("entries")
        for entries_item_data in _entries:
            entries_item = EntryView.from_dict(entries_item_data)

            entries.append(entries_item)

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

        def _parse_group_id(data: object) -> None | str | Unset:
            if data is None:
                return data
            if isinstance(data, Unset):
                return data
            return cast(None | str | Unset, data)

        group_id = _parse_group_id(d.pop("group_id", UNSET))

        transaction_view = cls(
            id=id,
            type_=type_,
            status=status,
            amount=amount,
            currency=currency,
            from_account=from_account,
            to_account=to_account,
            reference=reference,
            reverses=reverses,
            entries=entries,
            created_at=created_at,
            metadata=metadata,
            group_id=group_id,
        )

        return transaction_view
