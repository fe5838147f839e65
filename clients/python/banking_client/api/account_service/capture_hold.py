from typing import Any
from urllib.parse import quote

from ...client import BankingClient, new_key
from ...models.capture_body import CaptureBody
from ...models.hold_view import HoldView
from ...types import UNSET, Unset


def capture_hold(
    client: BankingClient,
    id: str,
    *,
    body: CaptureBody | Unset = UNSET,
    idempotency_key: str | Unset = UNSET,
) -> HoldView:
    """Capture a hold in full or in part; the rest is released unless `final` is false.

    A hold placed by an operator requires an operator; operators can also capture a hold on a frozen account."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}

    if not isinstance(body, Unset):
        _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/holds/{id}/captures".format(
            id=quote(str(id), safe=""),
        ),
        headers=headers,
        **_kwargs,
    )
    response_201 = HoldView.from_dict(response.json())

    return response_201
