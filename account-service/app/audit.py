"""Who changed what, recorded in the transaction that makes the change.

Who posted a transaction is in its own row, because that costs a busy bank next to nothing. All other changes, captures
of holds among them, have an entry in the audit log. What is read is both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from app.book import AccountIs, Command, HoldIs, OpenAccount, Outcome
from app.work import EVENT_SUBJECT, SYSTEM, Work
from shared.ids import new_id, rfc3339

Action = Literal[
    "open",
    "deposit",
    "withdrawal",
    "transfer",
    "reversal",
    "hold",
    "capture",
    "void",
    "expire",
    "freeze",
    "unfreeze",
    "close",
]
# No token has it: scopes of tokens are recorded if their names begin with `bank:`.
SYSTEM_SCOPE = "system"
_MAX_SCOPE = 255
_MAX_REQUEST_ID = 128
_HOLD_ACTIONS: Mapping[str, Action] = {
    "active": "hold",
    "captured": "capture",
    "voided": "void",
    "expired": "expire",
}
_STATUS_ACTIONS: Mapping[str, Action] = {"frozen": "freeze", "active": "unfreeze", "closed": "close"}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change: the token's subject, its scopes of the bank, and the request.

    The bank itself is the subject `bank` with the scope `system`.
    """

    subject: str
    scope: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A change, and who made it; `event_id` is the event that the bank acted on."""

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
    """Which changes to list: what is not None narrows the list."""

    account_id: str | None = None
    subject: str | None = None
    action: str | None = None
    start: datetime | None = None
    end: datetime | None = None


def actor_of(work: Work) -> Actor:
    """Return who makes a request."""
    request_id = work.trace.request_id
    # Not by what it says of itself: a token may have the same subject and scope.
    scope = SYSTEM_SCOPE if work.caller is SYSTEM else _recorded(work.caller.scopes)
    return Actor(work.caller.subject, scope, request_id and request_id[:_MAX_REQUEST_ID])


@lru_cache(maxsize=1024)
def _recorded(scopes: frozenset[str]) -> str:
    return " ".join(sorted(scope for scope in scopes if scope.startswith("bank:")))[:_MAX_SCOPE]


def entry_of(work: Work, command: Command, outcome: Outcome, actor: Actor, now: datetime) -> AuditEntry | None:
    """Return the entry for a change of an account or a hold; None for one that its transaction's row records."""
    transaction_id = hold_id = event_id = None
    if isinstance(outcome, HoldIs):
        hold = outcome.hold
        action, account_id, hold_id = _HOLD_ACTIONS[hold.status], hold.account_id, hold.id
        transaction_id = hold.transaction_id
    elif isinstance(outcome, AccountIs):
        action = "open" if isinstance(command, OpenAccount) else _STATUS_ACTIONS[outcome.account.status]
        account_id = outcome.account.id
    else:
        return None
    if work.key is not None and work.key[0] == EVENT_SUBJECT:
        event_id = work.key[1]
    return AuditEntry(
        id=new_id(),
        created_at=now,
        action=action,
        account_id=account_id,
        transaction_id=transaction_id,
        hold_id=hold_id,
        subject=actor.subject,
        scope=actor.scope,
        request_id=actor.request_id,
        event_id=event_id,
    )


def audit_data(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry as the API shows it."""
    return {
        "id": entry.id,
        "created_at": rfc3339(entry.created_at),
        "action": entry.action,
        "account_id": entry.account_id,
        "transaction_id": entry.transaction_id,
        "hold_id": entry.hold_id,
        "subject": entry.subject,
        "scope": entry.scope,
        "request_id": entry.request_id,
        "event_id": entry.event_id,
    }
