"""Turns events into rows of the history: plain functions on plain data.

Each row depends on one event only and never changes, so events may arrive in any order and more than once.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from shared.events import DATA_MODELS, AccountData, CloudEvent, EntryPosted, EventData, TransactionRefused

Row = dict[str, Any]

_MAX_BIGINT = 2**63 - 1


@dataclass(slots=True)
class Projection:
    """Rows to insert, by key."""

    accounts: dict[str, Row] = field(default_factory=dict)
    transactions: dict[str, Row] = field(default_factory=dict)
    entries: dict[tuple[str, str], Row] = field(default_factory=dict)

    @property
    def posted(self) -> list[Row]:
        """Entries that moved money."""
        return [entry for entry in self.entries.values() if entry["seq"] is not None]


def parse(event: CloudEvent) -> EventData | None:
    """Parse the data of an event; None for types without effect on the history.

    Raises pydantic.ValidationError for invalid data.
    """
    model = DATA_MODELS.get(event.type)
    return model.model_validate(event.data) if model in (AccountData, EntryPosted, TransactionRefused) else None


def project(data: Iterable[EventData]) -> Projection:
    """Return the rows for the data of events. Raises ValueError for values that a database cannot store."""
    projection = Projection()
    for item in data:
        if isinstance(item, AccountData):
            _add_account(projection, item)
        elif isinstance(item, EntryPosted):
            _add_entry(projection, item)
        elif isinstance(item, TransactionRefused):
            _add_refusal(projection, item)
    return projection


def _add_account(projection: Projection, account: AccountData) -> None:
    account_id = _identifier(account.id)
    row = {
        "id": account_id,
        "owner": account.owner,
        "currency": account.currency,
        "account_number": account.account_number,
        "name": account.name,
    }
    projection.accounts.setdefault(account_id, row)


def _add_entry(projection: Projection, entry: EntryPosted) -> None:
    account_id, counterparty = _identifier(entry.account_id), _identifier(entry.counterparty)
    payer, payee = (account_id, counterparty) if entry.amount < 0 else (counterparty, account_id)
    _add(
        projection,
        {
            "id": _identifier(entry.transaction_id),
            "type": entry.type,
            "status": "posted",
            "code": None,
            "amount": _bigint(abs(entry.amount)),
            "currency": entry.currency,
            "from_account": payer,
            "to_account": payee,
            "reference": entry.reference,
            "reverses": _identifier(entry.reverses) if entry.reverses else None,
            "metadata": _stored_metadata(entry),
            "group_id": _identifier(entry.group_id) if entry.group_id else None,
            "created_at": _aware_timestamp(entry.created_at),
        },
        {
            "account_id": account_id,
            "seq": _bigint(entry.seq),
            "counterparty": counterparty,
            "amount": entry.amount,
            "balance_after": _bigint(entry.balance_after),
        },
    )


def _add_refusal(projection: Projection, refusal: TransactionRefused) -> None:
    account_id = _identifier(refusal.account_id)
    counterparty = _identifier(refusal.counterparty) if refusal.counterparty else None
    is_credit = refusal.direction == "credit" or (refusal.direction is None and refusal.type == "deposit")
    payer, payee = (counterparty, account_id) if is_credit else (account_id, counterparty)
    amount = _bigint(refusal.amount)
    _add(
        projection,
        {
            "id": _identifier(refusal.transaction_id),
            "type": refusal.type,
            "status": "refused",
            "code": refusal.code,
            "amount": amount,
            "currency": refusal.currency,
            "from_account": payer,
            "to_account": payee,
            "reference": refusal.reference,
            "reverses": None,
            "metadata": _stored_metadata(refusal),
            "group_id": _identifier(refusal.group_id) if refusal.group_id else None,
            "created_at": _aware_timestamp(refusal.created_at),
        },
        {
            "account_id": account_id,
            "seq": None,
            "counterparty": counterparty,
            "amount": amount if is_credit else -amount,
            "balance_after": None,
        },
    )


def _add(projection: Projection, transaction: Row, entry: Row) -> None:
    # As in the database, the first row wins.
    projection.transactions.setdefault(transaction["id"], transaction)
    row = {**entry, "transaction_id": transaction["id"], "created_at": transaction["created_at"]}
    projection.entries.setdefault((entry["account_id"], transaction["id"]), row)


def _stored_metadata(data: EntryPosted | TransactionRefused) -> str | None:
    return orjson.dumps(data.metadata, option=orjson.OPT_SORT_KEYS).decode() if data.metadata else None


def _identifier(text: str) -> str:
    # SQLite would store any text, and fail when reading it.
    return str(uuid.UUID(text))


def _bigint(number: int) -> int:
    if abs(number) > _MAX_BIGINT:
        raise ValueError("a number is too large")
    return number


def _aware_timestamp(timestamp: datetime) -> datetime:
    if timestamp.tzinfo is None:
        raise ValueError("a time has no zone")
    return timestamp
