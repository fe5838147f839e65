from urllib.parse import quote

from ...client import BankingClient
from ...models.webhook_view import WebhookView


def get_webhook(
    client: BankingClient,
    id: str,
) -> WebhookView:
    """Show a webhook."""

    response = client.request(
        "GET",
        "/api/v1/webhooks/{id}".format(
            id=quote(str(id), safe=""),
        ),
    )
    response_200 = WebhookView.from_dict(response.json())

    return response_200
