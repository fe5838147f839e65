import datetime
from typing import Any

from ...client import BankingClient
from ...models.transaction_page import TransactionPage
from ...types import UNSET, Unset


def list_transactions(
    client: BankingClient,
    *,
    account_id: None | str | Unset = UNSET,
    type_: None | str | Unset = UNSET,
    from_: datetime.datetime | None | Unset = UNSET,
    to: datetime.datetime | None | Unset = UNSET,
    reference: None | str | Unset = UNSET,
    counterparty: None | str | Unset = UNSET,
    min_amount: int | None | Unset = UNSET,
    max_amount: int | None | Unset = UNSET,
    code: None | str | Unset = UNSET,
    metadata_key: None | str | Unset = UNSET,
    metadata_value: None | str | Unset = UNSET,
    group_id: None | str | Unset = UNSET,
    limit: int | Unset = 50,
    cursor: None | str | Unset = UNSET,
) -> TransactionPage:
    """List the transactions of the caller's accounts, newest first; operators see all.

    A page of a search in an account reads at most 10,000 entries: it may have few or no items and a
    `next_cursor`."""

    params: dict[str, Any] = {}

    json_account_id: None | str | Unset
    if isinstance(account_id, Unset):
        json_account_id = UNSET
    else:
        json_account_id = account_id
    params["account_id"] = json_account_id

    json_type_: None | str | Unset
    if isinstance(type_, Unset):
        json_type_ = UNSET
    else:
        json_type_ = type_
    params["type"] = json_type_

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

    json_reference: None | str | Unset
    if isinstance(reference, Unset):
        json_reference = UNSET
    else:
        json_reference = reference
    params["reference"] = json_reference

    json_counterparty: None | str | Unset
    if isinstance(counterparty, Unset):
        json_counterparty = UNSET
    else:
        json_counterparty = counterparty
    params["counterparty"] = json_counterparty

    json_min_amount: int | None | Unset
    if isinstance(min_amount, Unset):
        json_min_amount = UNSET
    else:
        json_min_amount = min_amount
    params["min_amount"] = json_min_amount

    json_max_amount: int | None | Unset
    if isinstance(max_amount, Unset):
        json_max_amount = UNSET
    else:
        json_max_amount = max_amount
    params["max_amount"] = json_max_amount

    json_code: None | str | Unset
    if isinstance(code, Unset):
        json_code = UNSET
    else:
        json_code = code
    params["code"] = json_code

    json_metadata_key: None | str | Unset
    if isinstance(metadata_key, Unset):
        json_metadata_key = UNSET
    else:
        json_metadata_key = metadata_key
    params["metadata_key"] = json_metadata_key

    json_metadata_value: None | str | Unset
    if isinstance(metadata_value, Unset):
        json_metadata_value = UNSET
    else:
        json_metadata_value = metadata_value
    params["metadata_value"] = json_metadata_value

    json_group_id: None | str | Unset
    if isinstance(group_id, Unset):
        json_group_id = UNSET
    else:
        json_group_id = group_id
    params["group_id"] = json_group_id

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
        "/api/v1/transactions",
        params=params,
    )
    response_200 = TransactionPage.from_dict(response.json())

    return response_200
