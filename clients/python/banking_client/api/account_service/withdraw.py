from typing import Any
from urllib.parse import quote

from ...client import BankingClient, new_key
from ...models.money_body import MoneyBody
from ...models.transaction_view import TransactionView
from ...types import UNSET, Unset


def withdraw(
    client: BankingClient,
    id: str,
    *,
    body: MoneyBody,
    idempotency_key: str | Unset = UNSET,
) -> TransactionView:
    """Withdraw money from an account."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/accounts/{id}/withdrawals".format(
            id=quote(str(id), safe=""),
        ),
        headers=headers,
        **_kwargs,
    )
    response_201 = TransactionView.from_dict(response.json())

    return response_201
