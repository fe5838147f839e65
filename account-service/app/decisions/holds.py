"""Decisions about holds: place, capture, extend, release."""

from dataclasses import replace
from datetime import datetime, timedelta

from app.decisions import daily_limit, posting
from app.domain.commands import (
    CaptureHold,
    ExtendHold,
    HoldResult,
    PlaceHold,
    Refusal,
    ReleaseHold,
    Result,
    TransactionResult,
)
from app.domain.events import hold_event
from app.domain.model import MAX_BLOCKING_HOLDS, MAX_HOLD_SECONDS, Account, Hold, Transaction, format_amount
from app.domain.unit_of_work import UnitOfWork
from shared.http.auth import Caller
from shared.ids import rfc3339

_NO_HOLD = Refusal("not-found", "Hold not found; check the id.")
_OPERATOR_HOLD = Refusal(
    "forbidden", "The owner did not place this hold; ask an operator to capture, extend or void it."
)


def place_hold(unit: UnitOfWork, command: PlaceHold, caller: Caller, now: datetime) -> Result:
    """Reserve money on an account."""
    account = posting.customer_account(unit, command.account_id, caller)
    if account is None:
        return posting.NO_ACCOUNT
    if account.currency != command.currency:
        return posting.currency_mismatch(account, command.currency)
    cash = unit.cash_accounts[command.currency]
    transaction = Transaction(command.id, "hold", command.amount, command.currency, account.id, cash, None, None, now)
    refusal = posting.check_debit(account, command.amount, account.available) or daily_limit.check(account, transaction)
    if refusal is not None:
        return posting.refuse(unit, refusal, transaction, on_behalf_of=account)
    account.held += command.amount
    daily_limit.count(unit, account, transaction)
    unit.changed_accounts.add(account.id)
    hold = Hold(
        id=command.id,
        account_id=account.id,
        amount=command.amount,
        captured_amount=0,
        currency=command.currency,
        status="active",
        expires_at=command.expires_at,
        transaction_id=None,
        created_at=now,
        placed_by="operator" if caller.is_operator else "owner",
    )
    unit.placed_holds.add(hold.id)
    return HoldResult(_save_hold(unit, hold, "bank.hold.placed"))


def _hold_and_account(unit: UnitOfWork, hold_id: str, caller: Caller) -> tuple[Hold, Account] | Refusal:
    """Return a hold that the caller may change, and its account."""
    hold = unit.holds.get(hold_id)
    account = posting.customer_account(unit, hold.account_id, caller) if hold else None
    if hold is None or account is None:
        return _NO_HOLD
    return (hold, account) if _may_change(hold, caller) else _OPERATOR_HOLD


def _active_hold_and_account(
    unit: UnitOfWork, hold_id: str, caller: Caller, now: datetime
) -> tuple[Hold, Account] | Refusal:
    """Return an active hold that the caller may change, and its account."""
    target = _hold_and_account(unit, hold_id, caller)
    if isinstance(target, Refusal):
        return target
    hold, _ = target
    return target if hold.status == "active" and hold.expires_at > now else _hold_not_active(hold)


def capture_hold(unit: UnitOfWork, command: CaptureHold, caller: Caller, now: datetime) -> Result:
    """Pay out a part of a hold, or the rest of it; a final capture ends the hold and releases what is not captured."""
    target = _active_hold_and_account(unit, command.hold_id, caller, now)
    if isinstance(target, Refusal):
        return target
    hold, account = target
    amount = hold.remaining_amount if command.amount is None else command.amount
    if amount > hold.remaining_amount:
        covered, requested = (format_amount(value, hold.currency) for value in (hold.remaining_amount, amount))
        return Refusal("hold-exceeded", f"The hold covers {covered}, requested {requested}; capture a smaller amount.")
    cash = unit.cash_accounts[hold.currency]
    transaction = Transaction(
        command.id, "capture", amount, hold.currency, account.id, cash, None, None, now, command.metadata
    )
    is_last = command.final or amount == hold.remaining_amount
    result = posting.post(
        unit,
        transaction,
        on_behalf_of=account,
        releases=hold.remaining_amount if is_last else amount,
        # The money was reserved before the account was frozen.
        allow_frozen=caller.is_operator,
    )
    if not isinstance(result, TransactionResult):
        return result
    if is_last:
        daily_limit.restore(unit, account, hold, hold.remaining_amount - amount, now)
    captured = replace(
        hold,
        status="captured" if is_last else "active",
        captured_amount=hold.captured_amount + amount,
        transaction_id=command.id,
    )
    return HoldResult(_save_hold(unit, captured, "bank.hold.captured"), result)


def extend_hold(unit: UnitOfWork, command: ExtendHold, caller: Caller, now: datetime) -> Result:
    """Move the expiry of a hold to a later time, at most a year after it was placed."""
    target = _active_hold_and_account(unit, command.hold_id, caller, now)
    if isinstance(target, Refusal):
        return target
    hold, _ = target
    latest = hold.created_at + timedelta(seconds=MAX_HOLD_SECONDS)
    if not hold.expires_at < command.expires_at <= latest:
        return Refusal(
            "expiry-out-of-range",
            f"The hold expires at {rfc3339(hold.expires_at)}; the new expiry must be later, and not after "
            f"{rfc3339(latest)}.",
        )
    return HoldResult(_save_hold(unit, replace(hold, expires_at=command.expires_at), "bank.hold.extended"))


def release_hold(unit: UnitOfWork, command: ReleaseHold, caller: Caller, now: datetime) -> Result:
    """Release what is left of a hold without paying it out."""
    target = _hold_and_account(unit, command.hold_id, caller)
    if isinstance(target, Refusal):
        return target
    hold, account = target
    is_expired = hold.expires_at <= now
    if hold.status != "active" or is_expired != (command.status == "expired"):
        return _hold_not_active(hold)
    account.held -= hold.remaining_amount
    daily_limit.restore(unit, account, hold, hold.remaining_amount, now)
    unit.changed_accounts.add(account.id)
    return HoldResult(_save_hold(unit, replace(hold, status=command.status), f"bank.hold.{command.status}"))


def blocking_holds(unit: UnitOfWork, account_id: str) -> tuple[str, ...]:
    """Return the ids of active holds on an account that is being closed, oldest first, up to a limit."""
    active = (hold.id for hold in unit.holds.values() if hold.account_id == account_id and hold.status == "active")
    return tuple(sorted(active)[:MAX_BLOCKING_HOLDS])


def _may_change(hold: Hold, caller: Caller) -> bool:
    # Capturing one cent can release the rest, so a capture ends a hold as well.
    return caller.is_operator or hold.placed_by == "owner"


def _hold_not_active(hold: Hold) -> Refusal:
    status = hold.status if hold.status != "active" else "expired"
    return Refusal("hold-not-active", f"The hold is {status}; place a new hold.")


def _save_hold(unit: UnitOfWork, hold: Hold, event_type: str) -> Hold:
    unit.holds[hold.id] = hold
    unit.changed_holds.add(hold.id)
    unit.events.append(hold_event(event_type, hold))
    return hold
