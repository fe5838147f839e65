from typing import Any
from urllib.parse import quote

from ...client import BankingClient, new_key
from ...models.group_reversal_body import GroupReversalBody
from ...models.group_view import GroupView
from ...types import UNSET, Unset


def reverse_group(
    client: BankingClient,
    id: str,
    *,
    body: GroupReversalBody | Unset = UNSET,
    idempotency_key: str | Unset = UNSET,
) -> GroupView:
    """Reverse what is left of all legs, the last one first, or none; the reversals are a group of their own.

    Only the recipient of all legs or an operator can do so."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}

    if not isinstance(body, Unset):
        _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/transaction-groups/{id}/reversals".format(
            id=quote(str(id), safe=""),
        ),
        headers=headers,
        **_kwargs,
    )
    response_201 = GroupView.from_dict(response.json())

    return response_201
