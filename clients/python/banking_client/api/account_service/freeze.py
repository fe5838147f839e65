from urllib.parse import quote

from ...client import BankingClient
from ...models.account_view import AccountView


def freeze(
    client: BankingClient,
    id: str,
) -> AccountView:
    """Freeze an account: it can receive money but not pay. Operators only."""

    response = client.request(
        "POST",
        "/api/v1/accounts/{id}/freeze".format(
            id=quote(str(id), safe=""),
        ),
    )
    response_200 = AccountView.from_dict(response.json())

    return response_200
