from urllib.parse import quote

from ...client import BankingClient
from ...models.account_view import AccountView


def unfreeze(
    client: BankingClient,
    id: str,
) -> AccountView:
    """Unfreeze an account. Operators only."""

    response = client.request(
        "POST",
        "/api/v1/accounts/{id}/unfreeze".format(
            id=quote(str(id), safe=""),
        ),
    )
    response_200 = AccountView.from_dict(response.json())

    return response_200
