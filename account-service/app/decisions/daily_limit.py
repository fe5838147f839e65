"""The daily debit limit of an account, per UTC day.

Withdrawals, transfers out and placed holds count; what is left of a hold that ends on the day it was placed is
restored. Captures do not count again. Corrections (reversals) neither count nor restore anything.
"""

from datetime import datetime, timedelta

from app.domain.commands import Refusal
from app.domain.model import Account, Hold, Transaction, format_amount
from app.domain.unit_of_work import UnitOfWork
from shared.ids import rfc3339

_COUNTED = frozenset({"withdrawal", "transfer", "hold"})


def check(account: Account, transaction: Transaction) -> Refusal | None:
    """Return why the daily limit of the payer forbids a transaction or hold; None if it does not."""
    limit, now = account.daily_debit_limit, transaction.created_at
    if limit is None or transaction.type not in _COUNTED:
        return None
    debited = _debited_today(account, now)
    if debited + transaction.amount <= limit:
        return None
    amounts = (limit, debited, transaction.amount)
    maximum, used, requested = (format_amount(value, account.currency) for value in amounts)
    return Refusal(
        "daily-limit-exceeded",
        f"Daily debit limit exceeded: limit {maximum}, debited today {used}, requested {requested}; reduce the amount "
        f"or wait until {rfc3339(_midnight(now) + timedelta(days=1))}.",
    )


def count(unit: UnitOfWork, account: Account, transaction: Transaction) -> None:
    """Count a transaction or hold that the limit allows."""
    if account.daily_debit_limit is None or transaction.type not in _COUNTED:
        return
    now = transaction.created_at
    account.debited = _debited_today(account, now) + transaction.amount
    account.debited_since = _since(account, now)
    unit.changed_limits.add(account.id)


def restore(unit: UnitOfWork, account: Account, hold: Hold, amount: int, now: datetime) -> None:
    """Restore an amount of a hold that has counted today and is released."""
    if account.debited_since is None or hold.created_at <= _since(account, now):
        return
    account.debited, account.debited_since = max(_debited_today(account, now) - amount, 0), _since(account, now)
    unit.changed_limits.add(account.id)


def _debited_today(account: Account, now: datetime) -> int:
    is_today = account.debited_since is not None and account.debited_since >= _midnight(now)
    return (account.debited or 0) if is_today else 0


def _since(account: Account, now: datetime) -> datetime:
    return max(account.debited_since or now, _midnight(now))


def _midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
