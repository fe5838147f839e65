from typing import Any
from urllib.parse import quote

from ...client import BankingClient, new_key
from ...models.hold_view import HoldView
from ...types import UNSET, Unset


def void_hold(
    client: BankingClient,
    id: str,
    *,
    idempotency_key: str | Unset = UNSET,
) -> HoldView:
    """Void a hold without paying it out. A hold placed by an operator requires an operator."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    response = client.request(
        "POST",
        "/api/v1/holds/{id}/voids".format(
            id=quote(str(id), safe=""),
        ),
        headers=headers,
    )
    response_201 = HoldView.from_dict(response.json())

    return response_201
