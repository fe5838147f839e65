"""The ledger's decisions: deterministic, because they use no clock, network or database.

A `UnitOfWork` holds the accounts that a batch has locked. `decide` is called with its commands in order of arrival; it
changes the unit of work, or returns a refusal and changes nothing. Storage then writes the changes.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.decisions import holds, limits
from app.decisions.posting import CLOSED, NO_ACCOUNT, currency_mismatch, customer_account, post
from app.domain.commands import (
    AccountResult,
    CaptureHold,
    Command,
    Deposit,
    ExtendHold,
    OpenAccount,
    PlaceHold,
    Refusal,
    ReleaseHold,
    Result,
    Reverse,
    SetLimits,
    SetStatus,
    TransactionResult,
    Transfer,
    Withdraw,
)
from app.domain.events import account_event
from app.domain.model import Account, Transaction, format_amount
from app.domain.unit_of_work import UnitOfWork
from shared.http.auth import Caller

_NO_TRANSACTION = Refusal("not-found", "Transaction not found; check the id.")
_SYNTHETIC = Refusal(
    "forbidden",
    "A token with the scope bank:synthetic can only open accounts, deposit into them and transfer between them.",
)
_STATUS_EVENTS = {"frozen": "bank.account.frozen", "active": "bank.account.unfrozen", "closed": "bank.account.closed"}


def decide(unit: UnitOfWork, command: Command, caller: Caller, now: datetime) -> Result:
    """Execute one command in the unit of work, or refuse it and leave balances, entries and holds unchanged."""
    if caller.is_synthetic and not _stays_within_own_accounts(unit, command, caller):
        return _SYNTHETIC
    return _HANDLERS[type(command)](unit, command, caller, now)


def _stays_within_own_accounts(unit: UnitOfWork, command: Command, caller: Caller) -> bool:
    """Return whether a command uses only the caller's accounts and pays no money out of them."""
    if not isinstance(command, OpenAccount | Deposit | Transfer):
        return False
    accounts = (customer_account(unit, account_id) for account_id in command.references.accounts)
    return all(account is not None and account.owner == caller.subject for account in accounts)


def _open_account(unit: UnitOfWork, command: OpenAccount, caller: Caller, now: datetime) -> Result:
    account = Account(
        id=command.id,
        account_number=command.account_number,
        owner=caller.subject,
        name=command.name,
        kind="customer",
        currency=command.currency,
        status="active",
        balance=0,
        held=0,
        seq=0,
        created_at=now,
        metadata=command.metadata,
    )
    unit.accounts[account.id] = account
    unit.opened_accounts.append(account)
    unit.events.append(account_event("bank.account.opened", account))
    return AccountResult(replace(account))


def _deposit_or_withdraw(unit: UnitOfWork, command: Deposit | Withdraw, caller: Caller, now: datetime) -> Result:
    account = customer_account(unit, command.account_id, caller)
    if account is None:
        return NO_ACCOUNT
    if account.currency != command.currency:
        return currency_mismatch(account, command.currency)
    cash = unit.cash_accounts[command.currency]
    if isinstance(command, Deposit):
        type_, payer, payee = "deposit", cash, account.id
    else:
        type_, payer, payee = "withdrawal", account.id, cash
    transaction = Transaction(
        command.id,
        type_,
        command.amount,
        command.currency,
        payer,
        payee,
        command.reference,
        None,
        now,
        command.metadata,
    )
    return post(unit, transaction, on_behalf_of=account)


def _transfer(unit: UnitOfWork, command: Transfer, caller: Caller, now: datetime) -> Result:
    payer = customer_account(unit, command.from_account, caller)
    if payer is None:
        return NO_ACCOUNT
    if command.from_account == command.to_account:
        return Refusal("same-account", "A transfer requires two different accounts; change from_account or to_account.")
    payee = customer_account(unit, command.to_account)
    if payee is None:
        return NO_ACCOUNT
    for account in (payer, payee):
        if account.currency != command.currency:
            return currency_mismatch(account, command.currency)
    transaction = Transaction(
        command.id,
        "transfer",
        command.amount,
        command.currency,
        payer.id,
        payee.id,
        command.reference,
        None,
        now,
        command.metadata,
    )
    return post(unit, transaction, on_behalf_of=payer)


def _reverse(unit: UnitOfWork, command: Reverse, caller: Caller, now: datetime) -> Result:
    original = unit.reversible.get(command.transaction_id)
    if original is None:
        return _NO_TRANSACTION
    payer, payee = unit.accounts[original.to_account], unit.accounts[original.from_account]
    if not any(caller.may_see(account.owner) for account in (payer, payee) if account.kind == "customer"):
        return _NO_TRANSACTION
    if payer.kind == "cash":
        allowed = caller.is_operator or caller.is_cash_desk
    else:
        allowed = caller.may_see(payer.owner)
    if not allowed:
        return Refusal("forbidden", "Only the recipient of the money or an operator can reverse this transaction.")
    if original.type == "reversal":
        return Refusal("not-reversible", "A reversal cannot be reversed; post a new transaction instead.")
    left = _left_to_reverse(unit, original)
    amount = left if command.amount is None else command.amount
    if not 0 < amount <= left:
        return _reversal_exceeded(original, left, amount)
    transaction = Transaction(
        command.id,
        "reversal",
        amount,
        original.currency,
        payer.id,
        payee.id,
        command.reason,
        original.id,
        now,
        command.metadata,
    )
    result = post(unit, transaction, on_behalf_of=payer if payer.kind == "customer" else payee)
    if isinstance(result, TransactionResult):
        unit.reversed_amounts[original.id] = unit.reversed_amounts.get(original.id, 0) + amount
    return result


def _reversal_exceeded(original: Transaction, left: int, amount: int) -> Refusal:
    if not left:
        return Refusal("already-reversed", "The whole transaction has already been reversed.")
    available, requested = (format_amount(value, original.currency) for value in (left, amount))
    return Refusal("reversal-exceeded", f"Left to reverse: {available}, requested {requested}; reverse less.")


def _left_to_reverse(unit: UnitOfWork, original: Transaction) -> int:
    return original.amount - unit.reversed_amounts.get(original.id, 0)


def _set_status(unit: UnitOfWork, command: SetStatus, caller: Caller, _now: datetime) -> Result:
    account = customer_account(unit, command.account_id, caller)
    if account is None:
        return NO_ACCOUNT
    if account.status == command.status:
        return AccountResult(replace(account))
    if account.status == "closed":
        return CLOSED
    if command.status == "closed" and account.held:
        return Refusal(
            "balance-not-zero",
            "The account has active holds; capture or void those in `holds`, then pay out the balance.",
            holds=holds.blocking_holds(unit, account.id),
        )
    if command.status == "closed" and account.balance:
        return Refusal("balance-not-zero", "The account has a balance; pay it out first.")
    account.status = command.status
    unit.changed_accounts.add(account.id)
    unit.events.append(account_event(_STATUS_EVENTS[command.status], account))
    return AccountResult(replace(account))


_HANDLERS: dict[type, Callable[[UnitOfWork, Any, Caller, datetime], Result]] = {
    OpenAccount: _open_account,
    Deposit: _deposit_or_withdraw,
    Withdraw: _deposit_or_withdraw,
    Transfer: _transfer,
    Reverse: _reverse,
    PlaceHold: holds.place_hold,
    CaptureHold: holds.capture_hold,
    ExtendHold: holds.extend_hold,
    ReleaseHold: holds.release_hold,
    SetStatus: _set_status,
    SetLimits: limits.set_limits,
}
