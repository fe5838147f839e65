"""Checks that the history has the entries that events describe: plain functions on plain data.

Does not use the projection, because it must detect faults of the projection.
"""

import uuid
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from shared.events import CloudEvent

POSTED, REFUSED = "bank.entry.posted", "bank.transaction.refused"
# Each event of these types adds one entry.
ENTRY_TYPES = (POSTED, REFUSED)

# Account and transaction.
Key = tuple[str, str]


class StoredEntry(NamedTuple):
    """An entry as stored in the history; a refused transaction has neither seq nor balance."""

    seq: int | None
    amount: int
    balance_after: int | None


def entry_keys(events: Iterable[CloudEvent]) -> set[Key]:
    """Return the keys of the entries that events of ENTRY_TYPES describe."""
    return {_key(event.data) for event in events}


def with_other_keys(event: CloudEvent, account_id: str, transaction_id: str) -> CloudEvent:
    """Return the event as that of another account and transaction."""
    keys = {"account_id": account_id, "transaction_id": transaction_id}
    return event.model_copy(update={"id": transaction_id, "data": {**event.data, **keys}})


def has_entry(event: CloudEvent, stored: Mapping[Key, StoredEntry]) -> bool:
    """Return whether the entry of an event is stored, as the event describes it."""
    entry, data = stored.get(_key(event.data)), event.data
    if entry is None:
        return False
    if event.type == REFUSED:
        return entry.seq is None and abs(entry.amount) == data["amount"]
    return entry == (data["seq"], data["amount"], data["balance_after"])


def _key(data: Mapping[str, Any]) -> Key:
    return str(uuid.UUID(data["account_id"])), str(uuid.UUID(data["transaction_id"]))
