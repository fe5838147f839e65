from urllib.parse import quote

from ...client import BankingClient


def delete_webhook(
    client: BankingClient,
    id: str,
) -> None:
    """Delete a webhook with its delivery log."""

    client.request(
        "DELETE",
        "/api/v1/webhooks/{id}".format(
            id=quote(str(id), safe=""),
        ),
    )
