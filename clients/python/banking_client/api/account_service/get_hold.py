from urllib.parse import quote

from ...client import BankingClient
from ...models.hold_detail_view import HoldDetailView


def get_hold(
    client: BankingClient,
    id: str,
) -> HoldDetailView:
    """Get a hold, with its newest changes and who made them."""

    response = client.request(
        "GET",
        "/api/v1/holds/{id}".format(
            id=quote(str(id), safe=""),
        ),
    )
    response_200 = HoldDetailView.from_dict(response.json())

    return response_200
