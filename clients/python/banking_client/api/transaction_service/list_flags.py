from typing import Any

from ...client import BankingClient
from ...models.flag_page import FlagPage
from ...types import UNSET, Unset


def list_flags(
    client: BankingClient,
    *,
    account_id: None | str | Unset = UNSET,
    limit: int | Unset = 50,
    cursor: None | str | Unset = UNSET,
) -> FlagPage:
    """List the findings of the fraud rules, newest first. For operators."""

    params: dict[str, Any] = {}

    json_account_id: None | str | Unset
    if isinstance(account_id, Unset):
        json_account_id = UNSET
    else:
        json_account_id = account_id
    params["account_id"] = json_account_id

    params["limit"] = limit

    json_cursor: None | str | Unset
    if isinstance(cursor, Unset):
        json_cursor = UNSET
    else:
        json_cursor = cursor
    params["cursor"] = json_cursor

    params = {k: v for k, v in params.items() if v is not UNSET and v is not None}

    response = client.request(
        "GET",
        "/api/v1/flags",
        params=params,
    )
    response_200 = FlagPage.from_dict(response.json())

    return response_200
