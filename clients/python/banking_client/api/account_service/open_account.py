from typing import Any

from ...client import BankingClient, new_key
from ...models.account_view import AccountView
from ...models.open_account_body import OpenAccountBody
from ...types import UNSET, Unset


def open_account(
    client: BankingClient,
    *,
    body: OpenAccountBody,
    idempotency_key: str | Unset = UNSET,
) -> AccountView:
    """Open an account owned by the caller."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/accounts",
        headers=headers,
        **_kwargs,
    )
    response_201 = AccountView.from_dict(response.json())

    return response_201
