import datetime
from typing import Any
from urllib.parse import quote

from ...client import BankingClient
from ...models.statement_view import StatementView
from ...types import UNSET, Unset


def get_statement(
    client: BankingClient,
    account_id: str,
    *,
    from_: datetime.datetime | None | Unset = UNSET,
    to: datetime.datetime | None | Unset = UNSET,
    bom: str | Unset = "false",
) -> StatementView:
    """Show an account's entries and balances in a period, by default the current month.

    `Accept` selects JSON, `text/csv`, `application/xml` (CAMT.053.001.08) or `application/pdf` (one page). A long
    statement is streamed: incomplete JSON or XML, or CSV without the closing balance, means that it was aborted."""

    params: dict[str, Any] = {}

    json_from_: None | str | Unset
    if isinstance(from_, Unset):
        json_from_ = UNSET
    elif isinstance(from_, datetime.datetime):
        json_from_ = from_.isoformat()
    else:
        json_from_ = from_
    params["from"] = json_from_

    json_to: None | str | Unset
    if isinstance(to, Unset):
        json_to = UNSET
    elif isinstance(to, datetime.datetime):
        json_to = to.isoformat()
    else:
        json_to = to
    params["to"] = json_to

    params["bom"] = bom

    params = {k: v for k, v in params.items() if v is not UNSET and v is not None}

    response = client.request(
        "GET",
        "/api/v1/statements/{account_id}".format(
            account_id=quote(str(account_id), safe=""),
        ),
        params=params,
    )
    response_200 = StatementView.from_dict(response.json())

    return response_200
