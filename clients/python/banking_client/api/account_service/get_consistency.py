from typing import Any

from ...client import BankingClient
from ...models.consistency_view import ConsistencyView
from ...types import UNSET


def get_consistency(
    client: BankingClient,
    *,
    first: int,
    second: int,
) -> ConsistencyView:
    """Prove that the root of size `second` extends the one of size `first`: nothing before was altered."""

    params: dict[str, Any] = {}

    params["first"] = first

    params["second"] = second

    params = {k: v for k, v in params.items() if v is not UNSET and v is not None}

    response = client.request(
        "GET",
        "/api/v1/ledger/consistency",
        params=params,
    )
    response_200 = ConsistencyView.from_dict(response.json())

    return response_200
