from typing import Any
from urllib.parse import quote

from ...client import BankingClient
from ...models.hold_page import HoldPage
from ...types import UNSET, Unset


def list_holds(
    client: BankingClient,
    id: str,
    *,
    status: None | str | Unset = UNSET,
    limit: int | Unset = 50,
    cursor: None | str | Unset = UNSET,
) -> HoldPage:
    """List the holds of an account, newest first."""

    params: dict[str, Any] = {}

    json_status: None | str | Unset
    if isinstance(status, Unset):
        json_status = UNSET
    else:
        json_status = status
    params["status"] = json_status

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
        "/api/v1/accounts/{id}/holds".format(
            id=quote(str(id), safe=""),
        ),
        params=params,
    )
    response_200 = HoldPage.from_dict(response.json())

    return response_200
