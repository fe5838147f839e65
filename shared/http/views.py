"""Representations that both services return."""

from collections.abc import Iterable
from typing import Any

import orjson

from shared.ids import rfc3339


def transaction_view(transaction: Any, status: str, entries: Iterable[tuple[Any, bool]]) -> dict[str, Any]:
    """Return the JSON of a transaction; each entry comes with whether the caller may see its account.

    `seq` and `balance_after` of other customers' accounts are null. `transaction` and the entries have the fields of
    account-service's rows.
    """
    return {
        "id": transaction.id,
        "type": transaction.type,
        "status": status,
        "amount": transaction.amount,
        "currency": transaction.currency,
        "from_account": transaction.from_account,
        "to_account": transaction.to_account,
        "reference": transaction.reference,
        "reverses": transaction.reverses,
        "entries": [
            {
                "account_id": entry.account_id,
                "amount": entry.amount,
                "seq": entry.seq if visible else None,
                "balance_after": entry.balance_after if visible else None,
            }
            for entry, visible in entries
        ],
        "created_at": rfc3339(transaction.created_at),
        **optional_members(transaction),
    }


def optional_members(transaction: Any) -> dict[str, Any]:
    """Return the members `metadata` and `group_id` of a transaction that has them."""
    members = metadata_member(transaction.metadata)
    return members if transaction.group_id is None else {**members, "group_id": transaction.group_id}


def metadata_member(metadata: str | None) -> dict[str, Any]:
    """Return the member `metadata` for a JSON object as stored; without metadata there is none."""
    return {} if metadata is None else {"metadata": orjson.loads(metadata)}
