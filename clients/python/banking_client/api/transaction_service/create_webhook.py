from typing import Any

from ...client import BankingClient, new_key
from ...models.webhook_body import WebhookBody
from ...models.webhook_view import WebhookView
from ...types import UNSET, Unset


def create_webhook(
    client: BankingClient,
    *,
    body: WebhookBody,
    idempotency_key: str | Unset = UNSET,
) -> WebhookView:
    """Create a webhook for events from now on: of the caller's accounts, or of any for operators."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/webhooks",
        headers=headers,
        **_kwargs,
    )
    response_201 = WebhookView.from_dict(response.json())

    return response_201
