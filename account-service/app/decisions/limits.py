"""Decisions about the limits of an account."""

from dataclasses import replace
from datetime import datetime

from app.decisions.posting import CLOSED, NO_ACCOUNT, customer_account
from app.domain.commands import AccountResult, Refusal, Result, SetLimits
from app.domain.events import account_event
from app.domain.model import format_amount
from app.domain.unit_of_work import UnitOfWork
from shared.http.auth import Caller


def set_limits(unit: UnitOfWork, command: SetLimits, caller: Caller, now: datetime) -> Result:
    """Set both limits of an account; a daily limit counts from the time at which the account first has one."""
    account = customer_account(unit, command.account_id, caller)
    if account is None:
        return NO_ACCOUNT
    if account.status == "closed":
        return CLOSED
    old_overdraft = account.overdraft_limit or 0
    if (command.overdraft_limit, command.daily_debit_limit) == (old_overdraft, account.daily_debit_limit):
        return AccountResult(replace(account))
    in_use = account.held - account.balance
    if command.overdraft_limit < min(in_use, old_overdraft):
        used, limit = (format_amount(value, account.currency) for value in (in_use, command.overdraft_limit))
        return Refusal("overdraft-in-use", f"The account uses {used} of its overdraft; {limit} is less than that.")
    account.overdraft_limit, account.daily_debit_limit = command.overdraft_limit, command.daily_debit_limit
    if account.daily_debit_limit is None:
        account.debited = account.debited_since = None
    elif account.debited_since is None:
        account.debited, account.debited_since = 0, now
    unit.changed_accounts.add(account.id)
    unit.changed_limits.add(account.id)
    unit.events.append(account_event("bank.account.updated", account))
    return AccountResult(replace(account))
