"""The audit log's data: who changed what."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Action = Literal[
    "open",
    "deposit",
    "withdrawal",
    "transfer",
    "reversal",
    "hold",
    "capture",
    "extend",
    "void",
    "expire",
    "freeze",
    "unfreeze",
    "close",
    "set-limits",
]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change: the token's subject, its `bank:` scopes, and the request.

    The bank itself has the subject `bank` and the scope `system`.
    """

    subject: str
    scope: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A change and who made it; `event_id` is the event that caused a change by the bank itself."""

    id: str
    created_at: datetime
    action: str
    account_id: str
    transaction_id: str | None
    hold_id: str | None
    subject: str
    scope: str
    request_id: str | None
    event_id: str | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which changes to list; None does not restrict the list."""

    account_id: str | None = None
    subject: str | None = None
    action: str | None = None
    start: datetime | None = None
    end: datetime | None = None
