from typing import Any

from ...client import BankingClient, new_key
from ...models.transaction_view import TransactionView
from ...models.transfer_body import TransferBody
from ...types import UNSET, Unset


def transfer(
    client: BankingClient,
    *,
    body: TransferBody,
    idempotency_key: str | Unset = UNSET,
) -> TransactionView:
    """Transfer money between two accounts of the same currency; the caller must own the paying account."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/transfers",
        headers=headers,
        **_kwargs,
    )
    response_201 = TransactionView.from_dict(response.json())

    return response_201
