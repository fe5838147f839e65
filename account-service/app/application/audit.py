"""Audit entries: who changed what, written in the database transaction that makes the change.

The actor of a transaction is stored in the transaction's own row, which adds almost no load. All other changes,
captures of holds included, have an entry in the audit log. Reads return both.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from app.application.requests import EVENT_SUBJECT, SYSTEM, LedgerRequest
from app.domain.audit import Action, Actor, AuditEntry
from app.domain.commands import (
    AccountResult,
    CaptureHold,
    Command,
    ExtendHold,
    HoldResult,
    OpenAccount,
    PlaceHold,
    Result,
    SetLimits,
)
from shared.http.auth import OPERATOR, Caller
from shared.ids import new_id, rfc3339

# Of the scopes of a token only those that begin with `bank:` are recorded, so no token has this one.
_SYSTEM_SCOPE = "system"
_MAX_SCOPE = 255
_MAX_REQUEST_ID = 128
_HOLD_ACTIONS: Mapping[type, Action] = {PlaceHold: "hold", CaptureHold: "capture", ExtendHold: "extend"}
_RELEASE_ACTIONS: Mapping[str, Action] = {"voided": "void", "expired": "expire"}
_ACCOUNT_ACTIONS: Mapping[type, Action] = {OpenAccount: "open", SetLimits: "set-limits"}
_STATUS_ACTIONS: Mapping[str, Action] = {"frozen": "freeze", "active": "unfreeze", "closed": "close"}


def actor_of(request: LedgerRequest) -> Actor:
    """Return the actor of a request."""
    request_id = request.context.request_id
    # By identity: a token may have the same subject and scope as the bank itself.
    scope = _SYSTEM_SCOPE if request.caller is SYSTEM else _bank_scopes(request.caller.scopes)
    return Actor(request.caller.subject, scope, request_id and request_id[:_MAX_REQUEST_ID])


@lru_cache(maxsize=1024)
def _bank_scopes(scopes: frozenset[str]) -> str:
    return " ".join(sorted(scope for scope in scopes if scope.startswith("bank:")))[:_MAX_SCOPE]


def entry_for(
    request: LedgerRequest, command: Command, result: Result, actor: Actor, now: datetime
) -> AuditEntry | None:
    """Return the entry for a change of an account or hold; None for a transaction, whose row records its actor."""
    transaction_id = hold_id = event_id = None
    if isinstance(result, HoldResult):
        hold = result.hold
        action = _RELEASE_ACTIONS.get(hold.status) or _HOLD_ACTIONS[type(command)]
        account_id, hold_id = hold.account_id, hold.id
        transaction_id = result.capture.transaction.id if result.capture else None
    elif isinstance(result, AccountResult):
        action = _ACCOUNT_ACTIONS.get(type(command)) or _STATUS_ACTIONS[result.account.status]
        account_id = result.account.id
    else:
        return None
    if request.key is not None and request.key[0] == EVENT_SUBJECT:
        event_id = request.key[1]
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


def hold_change(change: Any, caller: Caller) -> dict[str, Any]:
    """Return a change of a hold as the API represents it; `amount` is that of a capture.

    Customers do not see the subjects of operators.
    """
    made_by = "bank" if change.scope == _SYSTEM_SCOPE else "operator" if OPERATOR in change.scope.split() else "owner"
    return {
        "action": change.action,
        "made_by": made_by,
        "subject": change.subject if caller.is_operator or made_by == "owner" else None,
        "transaction_id": change.transaction_id,
        "amount": change.amount,
        "created_at": rfc3339(change.created_at),
    }


def audit_data(entry: AuditEntry) -> dict[str, Any]:
    """Return an entry as the API represents it."""
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
