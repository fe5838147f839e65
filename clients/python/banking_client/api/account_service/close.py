from urllib.parse import quote

from ...client import BankingClient
from ...models.account_view import AccountView


def close(
    client: BankingClient,
    id: str,
) -> AccountView:
    """Close an account with a zero balance permanently. Operators only."""

    response = client.request(
        "POST",
        "/api/v1/accounts/{id}/close".format(
            id=quote(str(id), safe=""),
        ),
    )
    response_200 = AccountView.from_dict(response.json())

    return response_200
