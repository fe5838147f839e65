from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar

from attrs import define as _attrs_define

T = TypeVar("T", bound="FlagView")


@_attrs_define
class FlagView:
    """A finding of a fraud rule.

    Attributes:
        id (str):
        transaction_id (str):
        account_id (str):
        rule (str):
        score (int):
        action (str):
        created_at (datetime.datetime):
    """

    id: str
    transaction_id: str
    account_id: str
    rule: str
    score: int
    action: str
    created_at: datetime.datetime

    def to_dict(self) -> dict[str, Any]:
        id = self.id

        transaction_id = self.transaction_id

        account_id = self.account_id

        rule = self.rule

        score = self.score

        action = self.action

        created_at = self.created_at.isoformat()

        field_dict: dict[str, Any] = {}

        field_dict.update(
            {
                "id": id,
                "transaction_id": transaction_id,
                "account_id": account_id,
                "rule": rule,
                "score": score,
                "action": action,
                "created_at": created_at,
            }
        )

        return field_dict

    @classmethod
    def from_dict(cls: type[T], src_dict: Mapping[str, Any]) -> T:
        d = dict(src_dict)
        id = d.pop("id")

        transaction_id = d.pop("transaction_id")

        account_id = d.pop("account_id")

        rule = d.pop("rule")

        score = d.pop("score")

        action = d.pop("action")

        created_at = datetime.datetime.fromisoformat(d.pop("created_at"))

        flag_view = cls(
            id=id,
            transaction_id=transaction_id,
            account_id=account_id,
            rule=rule,
            score=score,
            action=action,
            created_at=created_at,
        )

        return flag_view
