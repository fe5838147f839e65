from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from attrs import define as _attrs_define

if TYPE_CHECKING:
    from ..models.line_view import LineView
    from ..models.watermark_view import WatermarkView


T = TypeVar("T", bound="StatementView")


@_attrs_define
class StatementView:
    """A statement: opening balance + credits − debits = closing balance, if it is complete.

    Attributes:
        account_id (str):
        currency (str):
        from_ (datetime.datetime):
        to (datetime.datetime):
        opening_balance (int):
        closing_balance (int):
        total_credits (int):
        total_debits (int):
        complete (bool): True only if all entries before `to` (or before the request) are known to be included, compared
            with account-service. False while entries are pending, or if this is unknown.
        complete_through (datetime.datetime | None): All entries posted before this time are included; null if unknown.
        watermark (WatermarkView): The watermark of an account's history.
        entries (list[LineView]):
    """

    account_id: str
    currency: str
    from_: datetime.datetime
    to: datetime.datetime
    opening_balance: int
    closing_balance: int
    total_credits: int
    total_debits: int
    complete: bool
    complete_through: datetime.datetime | None
    watermark: WatermarkView
    entries: list[LineView]

    def to_dict(self) -> dict[str, Any]:
        account_id = self.account_id

        currency = self.currency

        from_ = self.from_.isoformat()

        to = self.to.isoformat()

        opening_balance = self.opening_balance

        closing_balance = self.closing_balance

        total_credits = self.total_credits

        total_debits = self.total_debits

        complete = self.complete

        complete_through: None | str
        if isinstance(self.complete_through, datetime.datetime):
            complete_through = self.complete_through.isoformat()
        else:
            complete_through = self.complete_through

        watermark = self.watermark.to_dict()

        entries = []
        for entries_item_data in self.entries:
            entries_item = entries_item_data.to_dict()
            entries.append(entries_item)

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "account_id": account_id,
                "currency": currency,
                "from": from_,
                "to": to,
                "opening_balance": opening_balance,
                "closing_balance": closing_balance,
                "total_credits": total_credits,
                "total_debits": total_debits,
                "complete": complete,
                "complete_through": complete_through,
                "watermark": watermark,
                "entries": entries,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        from ..models.line_view import LineView  # noqa: PLC0415
        from ..models.watermark_view import WatermarkView  # noqa: PLC0415

        d = dict(src_dict)
        account_id = d.pop("account_id")

        currency = d.pop("currency")

        from_ = datetime.datetime.fromisoformat(d.pop("from"))

        to = datetime.datetime.fromisoformat(d.pop("to"))

        opening_balance = d.pop("opening_balance")

        closing_balance = d.pop("closing_balance")

        total_credits = d.pop("total_credits")

        total_debits = d.pop("total_debits")

        complete = d.pop("complete")

        def _parse_complete_through(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                complete_through_type_0 = datetime.datetime.fromisoformat(data)

                return complete_through_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        complete_through = _parse_complete_through(d.pop("complete_through"))

        watermark = WatermarkView.from_dict(d.pop("watermark"))

        entries = []
        _entries = d.pop("entries")
        for entries_item_data in _entries:
            entries_item = LineView.from_dict(entries_item_data)

            entries.append(entries_item)

        statement_view = cls(
            account_id=account_id,
            currency=currency,
            from_=from_,
            to=to,
            opening_balance=opening_balance,
            closing_balance=closing_balance,
            total_credits=total_credits,
            total_debits=total_debits,
            complete=complete,
            complete_through=complete_through,
            watermark=watermark,
            entries=entries,
        )

        return statement_view
