from ...client import BankingClient
from ...models.reconciliation_view import ReconciliationView


def reconciliation(
    client: BankingClient,
) -> ReconciliationView:
    """Compare the history of every account with account-service's balance. For operators."""

    response = client.request(
        "GET",
        "/api/v1/reconciliation",
    )
    response_200 = ReconciliationView.from_dict(response.json())

    return response_200
