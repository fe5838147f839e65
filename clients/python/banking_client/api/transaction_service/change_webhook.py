from typing import Any
from urllib.parse import quote

from ...client import BankingClient
from ...models.webhook_change_body import WebhookChangeBody
from ...models.webhook_view import WebhookView


def change_webhook(
    client: BankingClient,
    id: str,
    *,
    body: WebhookChangeBody,
) -> WebhookView:
    """Change a webhook: its receiver or types, disable or enable it, replay events, rotate its secret."""
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "PATCH",
        "/api/v1/webhooks/{id}".format(
            id=quote(str(id), safe=""),
        ),
        headers=headers,
        **_kwargs,
    )
    response_200 = WebhookView.from_dict(response.json())

    return response_200
