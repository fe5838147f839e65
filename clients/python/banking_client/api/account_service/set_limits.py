from typing import Any
from urllib.parse import quote

from ...client import BankingClient
from ...models.account_view import AccountView
from ...models.limits_body import LimitsBody


def set_limits(
    client: BankingClient,
    id: str,
    *,
    body: LimitsBody,
) -> AccountView:
    """Set the overdraft limit and the daily debit limit of an account. Operators only."""
    headers: dict[str, Any] = {}

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/accounts/{id}/limits".format(
            id=quote(str(id), safe=""),
        ),
        headers=headers,
        **_kwargs,
    )
    response_200 = AccountView.from_dict(response.json())

    return response_200
