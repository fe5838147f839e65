from typing import Any
from urllib.parse import quote

from ...client import BankingClient
from ...models.webhook_delivery_page import WebhookDeliveryPage
from ...types import UNSET, Unset


def list_deliveries(
    client: BankingClient,
    id: str,
    *,
    limit: int | Unset = 50,
    cursor: None | str | Unset = UNSET,
) -> WebhookDeliveryPage:
    """List the delivery attempts of a webhook, newest first."""

    params: dict[str, Any] = {}

    params["limit"] = limit

    json_cursor: None | str | Unset
    if isinstance(cursor, Unset):
        json_cursor = UNSET
    else:
        json_cursor = cursor
    params["cursor"] = json_cursor

    params = {k: v for k, v in params.items() if v is not UNSET and v is not None}

    response = client.request(
        "GET",
        "/api/v1/webhooks/{id}/deliveries".format(
            id=quote(str(id), safe=""),
        ),
        params=params,
    )
    response_200 = WebhookDeliveryPage.from_dict(response.json())

    return response_200
