from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

T = TypeVar("T", bound="WebhookDeliveryView")


@_attrs_define
class WebhookDeliveryView:
    """An attempt to deliver an event.

    Attributes:
        id (str):
        message_id (str): Value of the header `webhook-id`.
        position (int): Position of the event.
        type_ (str):
        attempt (int):
        status (int | None): HTTP status of the response; null without one.
        error (None | str): Null if the event was accepted.
        created_at (datetime.datetime):
    """

    id: str
    message_id: str
    position: int
    type_: str
    attempt: int
    status: int | None
    error: None | str
    created_at: datetime.datetime

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        message_id = self.message_id

        position = self.position

        type_ = self.type_

        attempt = self.attempt

        status: int | None
        status = self.status

        error: None | str
        error = self.error

        created_at = self.created_at.isoformat()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "id": id,
                "message_id": message_id,
                "position": position,
                "type": type_,
                "attempt": attempt,
                "status": status,
                "error": error,
                "created_at": created_at,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        id = d.pop("id")

        message_id = d.pop("message_id")

        position = d.pop("position")

        type_ = d.pop("type")

        attempt = d.pop("attempt")

        def _parse_status(data: object) -> int | None:
            if data is None:
                return data
            return cast(int | None, data)

        status = _parse_status(d.pop("status"))

        def _parse_error(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        error = _parse_error(d.pop("error"))

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        webhook_delivery_view = cls(
            id=id,
            message_id=message_id,
            position=position,
            type_=type_,
            attempt=attempt,
            status=status,
            error=error,
            created_at=created_at,
        )

        return webhook_delivery_view
