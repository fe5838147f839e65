from typing import Any

from ...client import BankingClient
from ...models.root_page import RootPage
from ...types import UNSET, Unset


def list_roots(
    client: BankingClient,
    *,
    limit: int | Unset = 50,
    cursor: None | str | Unset = UNSET,
) -> RootPage:
    """List the signed roots of the ledger, newest first, with all public keys."""

    params: dict[str, Any] = {}

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
        "/api/v1/ledger/roots",
        params=params,
    )
    response_200 = RootPage.from_dict(response.json())

    return response_200
