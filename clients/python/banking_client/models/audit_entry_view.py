from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="AuditEntryView")


@_attrs_define
class AuditEntryView:
    """A change and who made it.

    Attributes:
        id (str):
        created_at (datetime.datetime):
        action (str):
        account_id (str): The changed account. Of a transaction the debited account, or the credited one if a cash
            account was debited, as by a deposit.
        transaction_id (None | str):
        hold_id (None | str):
        subject (str): Subject of the token; `bank` for a change by the bank itself.
        scope (str): Scopes of the token that begin with `bank:`; `system` for a change by the bank itself.
        request_id (None | str):
        event_id (None | str): Event that caused a change by the bank itself.
    """

    id: str
    created_at: datetime.datetime
    action: str
    account_id: str
    transaction_id: None | str
    hold_id: None | str
    subject: str
    scope: str
    request_id: None | str
    event_id: None | str

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        created_at = self.created_at.isoformat()

        action = self.action

        account_id = self.account_id

        transaction_id: None | str
        transaction_id = self.transaction_id

        hold_id: None | str
        hold_id = self.hold_id

        subject = self.subject

        scope = self.scope

        request_id: None | str
        request_id = self.request_id

        event_id: None | str
        event_id = self.event_id

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "id": id,
                "created_at": created_at,
                "action": action,
                "account_id": account_id,
                "transaction_id": transaction_id,
                "hold_id": hold_id,
                "subject": subject,
                "scope": scope,
                "request_id": request_id,
                "event_id": event_id,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        id = d.pop("id")

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        action = d.pop("action")

        account_id = d.pop("account_id")

        def _parse_transaction_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        transaction_id = _parse_transaction_id(d.pop("transaction_id"))

        def _parse_hold_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        hold_id = _parse_hold_id(d.pop("hold_id"))

        subject = d.pop("subject")

        scope = d.pop("scope")

        def _parse_request_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        request_id = _parse_request_id(d.pop("request_id"))

        def _parse_event_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        event_id = _parse_event_id(d.pop("event_id"))

        audit_entry_view = cls(
            id=id,
            created_at=created_at,
            action=action,
            account_id=account_id,
            transaction_id=transaction_id,
            hold_id=hold_id,
            subject=subject,
            scope=scope,
            request_id=request_id,
            event_id=event_id,
        )

        return audit_entry_view
