import datetime
from typing import Any
from urllib.parse import quote

from ...client import BankingClient
from ...models.balance_view import BalanceView
from ...types import UNSET, Unset


def get_balance(
    client: BankingClient,
    id: str,
    *,
    at: datetime.datetime | None | Unset = UNSET,
    as_of_transaction: None | str | Unset = UNSET,
) -> BalanceView:
    """Get the balance of an account at a time or after a transaction; by default now."""

    params: dict[str, Any] = {}

    json_at: None | str | Unset
    if isinstance(at, Unset):
        json_at = UNSET
    elif isinstance(at, datetime.datetime):
        json_at = at.isoformat()
    else:
        json_at = at
    params["at"] = json_at

    json_as_of_transaction: None | str | Unset
    if isinstance(as_of_transaction, Unset):
        json_as_of_transaction = UNSET
    else:
        json_as_of_transaction = as_of_transaction
    params["as_of_transaction"] = json_as_of_transaction

    params = {k: v for k, v in params.items() if v is not UNSET and v is not None}

    response = client.request(
        "GET",
        "/api/v1/accounts/{id}/balance".format(
            id=quote(str(id), safe=""),
        ),
        params=params,
    )
    response_200 = BalanceView.from_dict(response.json())

    return response_200
