from typing import Any

from ...client import BankingClient, new_key
from ...models.group_body import GroupBody
from ...models.group_view import GroupView
from ...types import UNSET, Unset


def post_group(
    client: BankingClient,
    *,
    body: GroupBody,
    idempotency_key: str | Unset = UNSET,
) -> GroupView:
    """Post up to 100 transfers in order, all of them or none; the caller must own all paying accounts.

    The legs of a group may use at most two currencies."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/transaction-groups",
        headers=headers,
        **_kwargs,
    )
    response_201 = GroupView.from_dict(response.json())

    return response_201
