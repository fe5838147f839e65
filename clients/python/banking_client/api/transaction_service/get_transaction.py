from urllib.parse import quote

from ...client import BankingClient
from ...models.history_transaction_view import HistoryTransactionView


def get_transaction(
    client: BankingClient,
    id: str,
) -> HistoryTransactionView:
    """Show a transaction."""

    response = client.request(
        "GET",
        "/api/v1/transactions/{id}".format(
            id=quote(str(id), safe=""),
        ),
    )
    response_200 = HistoryTransactionView.from_dict(response.json())

    return response_200
