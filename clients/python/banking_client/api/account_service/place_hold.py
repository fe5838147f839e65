from typing import Any
from urllib.parse import quote

from ...client import BankingClient, new_key
from ...models.hold_body import HoldBody
from ...models.hold_view import HoldView
from ...types import UNSET, Unset


def place_hold(
    client: BankingClient,
    id: str,
    *,
    body: HoldBody,
    idempotency_key: str | Unset = UNSET,
) -> HoldView:
    """Reserve money until the hold is captured, voided, or expires after `expires_in` seconds (default: 7 days)."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/accounts/{id}/holds".format(
            id=quote(str(id), safe=""),
        ),
        headers=headers,
        **_kwargs,
    )
    response_201 = HoldView.from_dict(response.json())

    return response_201
