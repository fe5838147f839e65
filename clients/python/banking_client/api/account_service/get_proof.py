from urllib.parse import quote

from ...client import BankingClient
from ...models.proof_view import ProofView


def get_proof(
    client: BankingClient,
    id: str,
) -> ProofView:
    """Prove that a signed root contains a transaction of the caller's; until there is one, the response is 409."""

    response = client.request(
        "GET",
        "/api/v1/transactions/{id}/proof".format(
            id=quote(str(id), safe=""),
        ),
    )
    response_200 = ProofView.from_dict(response.json())

    return response_200
