"""The ledger's decisions: deterministic, because they use no clock, network or database.

A `UnitOfWork` holds the accounts that a batch has locked. `decide` is called with its commands in order of arrival; it
changes the unit of work, or returns a refusal and changes nothing. Storage then writes the changes.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.decisions import corrections, groups, holds, limits, transfers
from app.decisions.posting import CLOSED, NO_ACCOUNT, currency_mismatch, customer_account, post
from app.domain.commands import (
    AccountResult,
    CaptureHold,
    Command,
    Deposit,
    ExtendHold,
    OpenAccount,
    PlaceHold,
    PostGroup,
    Refusal,
    ReleaseHold,
    Result,
    Reverse,
    ReverseGroup,
    SetLimits,
    SetStatus,
    Transfer,
    Withdraw,
)
from app.domain.events import account_event
from app.domain.model import Account, Transaction
from app.domain.unit_of_work import UnitOfWork
from shared.http.auth import Caller

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
    if not isinstance(command, OpenAccount | Deposit | Transfer | PostGroup):
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
    Transfer: transfers.transfer,
    PostGroup: groups.post_group,
    Reverse: corrections.reverse,
    ReverseGroup: groups.reverse_group,
    PlaceHold: holds.place_hold,
    CaptureHold: holds.capture_hold,
    ExtendHold: holds.extend_hold,
    ReleaseHold: holds.release_hold,
    SetStatus: _set_status,
    SetLimits: limits.set_limits,
}
