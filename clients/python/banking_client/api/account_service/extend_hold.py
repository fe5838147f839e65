from typing import Any
from urllib.parse import quote

from ...client import BankingClient, new_key
from ...models.extension_body import ExtensionBody
from ...models.hold_view import HoldView
from ...types import UNSET, Unset


def extend_hold(
    client: BankingClient,
    id: str,
    *,
    body: ExtensionBody,
    idempotency_key: str | Unset = UNSET,
) -> HoldView:
    """Let a hold expire later, at most a year after it was placed. An operator's hold requires an operator."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/holds/{id}/extensions".format(
            id=quote(str(id), safe=""),
        ),
        headers=headers,
        **_kwargs,
    )
    response_201 = HoldView.from_dict(response.json())

    return response_201
