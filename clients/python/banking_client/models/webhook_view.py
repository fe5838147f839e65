from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from attrs import define as _attrs_define

from ..types import UNSET, Unset

T = TypeVar("T", bound="WebhookView")


@_attrs_define
class WebhookView:
    """A webhook.

    Attributes:
        id (str):
        owner (str):
        url (str):
        account_id (None | str):
        types (list[str] | None):
        enabled (bool):
        disabled_reason (None | str):
        position (int): No event up to this position is still to be sent.
        failures (int): Failed attempts since the last accepted one.
        failing_since (datetime.datetime | None):
        next_attempt_at (datetime.datetime | None): Null unless failing.
        secret_version (int):
        created_at (datetime.datetime):
        secret (str | Unset): Signing secret; only in responses to the owner's POST and PATCH. Default: ''.
    """

    id: str
    owner: str
    url: str
    account_id: None | str
    types: list[str] | None
    enabled: bool
    disabled_reason: None | str
    position: int
    failures: int
    failing_since: datetime.datetime | None
    next_attempt_at: datetime.datetime | None
    secret_version: int
    created_at: datetime.datetime
    secret: str | Unset = ""

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        owner = self.owner

        url = self.url

        account_id: None | str
        account_id = self.account_id

        types: list[str] | None
        if isinstance(self.types, list):
            types = self.types

        else:
            types = self.types

        enabled = self.enabled

        disabled_reason: None | str
        disabled_reason = self.disabled_reason

        position = self.position

        failures = self.failures

        failing_since: None | str
        if isinstance(self.failing_since, datetime.datetime):
            failing_since = self.failing_since.isoformat()
        else:
            failing_since = self.failing_since

        next_attempt_at: None | str
        if isinstance(self.next_attempt_at, datetime.datetime):
            next_attempt_at = self.next_attempt_at.isoformat()
        else:
            next_attempt_at = self.next_attempt_at

        secret_version = self.secret_version

        created_at = self.created_at.isoformat()

        secret = self.secret

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "id": id,
                "owner": owner,
                "url": url,
                "account_id": account_id,
                "types": types,
                "enabled": enabled,
                "disabled_reason": disabled_reason,
                "position": position,
                "failures": failures,
                "failing_since": failing_since,
                "next_attempt_at": next_attempt_at,
                "secret_version": secret_version,
                "created_at": created_at,
            }
        )
        if secret is not UNSET:
            field_dict["secret"] = secret

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        id = d.pop("id")

        owner = d.pop("owner")

        url = d.pop("url")

        def _parse_account_id(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        account_id = _parse_account_id(d.pop("account_id"))

        def _parse_types(data: object) -> list[str] | None:
            if data is None:
                return data
            try:
                if not isinstance(data, list):
                    raise TypeError()
                types_type_0 = cast(list[str], data)

                return types_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(list[str] | None, data)

        types = _parse_types(d.pop("types"))

        enabled = d.pop("enabled")

        def _parse_disabled_reason(data: object) -> None | str:
            if data is None:
                return data
            return cast(None | str, data)

        disabled_reason = _parse_disabled_reason(d.pop("disabled_reason"))

        position = d.pop("position")

        failures = d.pop("failures")

        def _parse_failing_since(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                failing_since_type_0 = datetime.datetime.fromisoformat(data)

                return failing_since_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        failing_since = _parse_failing_since(d.pop("failing_since"))

        def _parse_next_attempt_at(data: object) -> datetime.datetime | None:
            if data is None:
                return data
            try:
                if not isinstance(data, str):
                    raise TypeError()
                next_attempt_at_type_0 = datetime.datetime.fromisoformat(data)

                return next_attempt_at_type_0
            except (TypeError, ValueError, AttributeError, KeyError):
                pass
            return cast(datetime.datetime | None, data)

        next_attempt_at = _parse_next_attempt_at(d.pop("next_attempt_at"))

        secret_version = d.pop("secret_version")

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        secret = d.pop("secret", UNSET)

        webhook_view = cls(
            id=id,
            owner=owner,
            url=url,
            account_id=account_id,
            types=types,
            enabled=enabled,
            disabled_reason=disabled_reason,
            position=position,
            failures=failures,
            failing_since=failing_since,
            next_attempt_at=next_attempt_at,
            secret_version=secret_version,
            created_at=created_at,
            secret=secret,
        )

        return webhook_view
