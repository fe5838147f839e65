from urllib.parse import quote

from ...client import BankingClient
from ...models.account_view import AccountView


def get_account(
    client: BankingClient,
    id: str,
) -> AccountView:
    """Get an account."""

    response = client.request(
        "GET",
        "/api/v1/accounts/{id}".format(
            id=quote(str(id), safe=""),
        ),
    )
    response_200 = AccountView.from_dict(response.json())

    return response_200
