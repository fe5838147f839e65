from typing import Any

from ...client import BankingClient
from ...models.webhook_page import WebhookPage
from ...types import UNSET, Unset


def list_webhooks(
    client: BankingClient,
    *,
    limit: int | Unset = 50,
    cursor: None | str | Unset = UNSET,
) -> WebhookPage:
    """List the caller's webhooks; operators see all."""

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
        "/api/v1/webhooks",
        params=params,
    )
    response_200 = WebhookPage.from_dict(response.json())

    return response_200
