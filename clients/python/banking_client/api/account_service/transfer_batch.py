from typing import Any

from ...client import BankingClient, new_key
from ...models.batch_body import BatchBody
from ...models.batch_view import BatchView
from ...types import UNSET, Unset


def transfer_batch(
    client: BankingClient,
    *,
    body: BatchBody,
    idempotency_key: str | Unset = UNSET,
) -> BatchView:
    """Execute up to 1000 transfers, each with its own key and result; with `atomic` all of them or none.

    The key of a transfer is an idempotency key: the same transfer can be repeated in a batch or on its own."""
    headers: dict[str, Any] = {}
    if not isinstance(idempotency_key, Unset):
        headers["Idempotency-Key"] = idempotency_key

    headers.setdefault("Idempotency-Key", new_key())

    _kwargs: dict[str, Any] = {}
    _kwargs["json"] = body.to_dict()

    response = client.request(
        "POST",
        "/api/v1/transfers:batch",
        headers=headers,
        **_kwargs,
    )
    response_200 = BatchView.from_dict(response.json())

    return response_200
