from typing import Any

from ...client import BankingClient, new_key
from ...models.reversal_body import ReversalBody
from ...models.transaction_view import TransactionView
from ...types import UNSET, Unset


def reverse(
    client: BankingClient,
    *,
    body: ReversalBody,
    idempotency_key: str | Unset = UNSET,
) -> TransactionView:
    """Reverse a transaction in full or in part; only the recipient of the money or an operator can do so."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/reversals",
        headers=headers,
        **_kwargs,
    )
    response_201 = TransactionView.from_dict(response.json())

    return response_201
