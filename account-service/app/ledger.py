"""The ledger's decisions: deterministic, because they use no clock, network or database.

A `UnitOfWork` holds the accounts that a batch has locked. `decide` is called with its commands in order of arrival; it
changes the unit of work, or returns a refusal and changes nothing. Storage then writes the changes.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.domain.commands import (
    AccountResult,
    CaptureHold,
    Command,
    Deposit,
    HoldResult,
    OpenAccount,
    PlaceHold,
    Refusal,
    ReleaseHold,
    Result,
    Reverse,
    SetStatus,
    TransactionResult,
    Transfer,
    Withdraw,
)
from app.domain.events import account_event, entry_posted, hold_event, transaction_refused
from app.domain.model import MAX_BALANCE, Account, Entry, Hold, Transaction, format_amount
from app.domain.unit_of_work import UnitOfWork
from shared.http.auth import Caller

_NO_ACCOUNT = Refusal("not-found", "Account not found; check the id.")
_NO_HOLD = Refusal("not-found", "Hold not found; check the id.")
_NO_TRANSACTION = Refusal("not-found", "Transaction not found; check the id.")
_OPERATOR_HOLD = Refusal("forbidden", "The owner did not place this hold; ask an operator to capture or void it.")
_SYNTHETIC = Refusal(
    "forbidden",
    "A token with the scope bank:synthetic can only open accounts, deposit into them and transfer between them.",
)
_CLOSED = Refusal("account-closed", "The account is closed; use another account.")
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
    accounts = (_customer_account(unit, account_id) for account_id in command.references.accounts)
    return all(account is not None and account.owner == caller.subject for account in accounts)


def _customer_account(unit: UnitOfWork, account_id: str, caller: Caller | None = None) -> Account | None:
    """Return the account if it is a customer's and, where a caller is given, visible to that caller."""
    account = unit.accounts.get(account_id)
    if account is None or account.kind == "cash" or (caller is not None and not caller.may_see(account.owner)):
        return None
    return account


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
    )
    unit.accounts[account.id] = account
    unit.opened_accounts.append(account)
    unit.events.append(account_event("bank.account.opened", account))
    return AccountResult(replace(account))


def _deposit_or_withdraw(unit: UnitOfWork, command: Deposit | Withdraw, caller: Caller, now: datetime) -> Result:
    account = _customer_account(unit, command.account_id, caller)
    if account is None:
        return _NO_ACCOUNT
    if account.currency != command.currency:
        return _currency_mismatch(account, command.currency)
    cash = unit.cash_accounts[command.currency]
    if isinstance(command, Deposit):
        type_, payer, payee = "deposit", cash, account.id
    else:
        type_, payer, payee = "withdrawal", account.id, cash
    transaction = Transaction(
        command.id, type_, command.amount, command.currency, payer, payee, command.reference, None, now
    )
    return _post(unit, transaction, on_behalf_of=account)


def _transfer(unit: UnitOfWork, command: Transfer, caller: Caller, now: datetime) -> Result:
    payer = _customer_account(unit, command.from_account, caller)
    if payer is None:
        return _NO_ACCOUNT
    if command.from_account == command.to_account:
        return Refusal("same-account", "A transfer requires two different accounts; change from_account or to_account.")
    payee = _customer_account(unit, command.to_account)
    if payee is None:
        return _NO_ACCOUNT
    for account in (payer, payee):
        if account.currency != command.currency:
            return _currency_mismatch(account, command.currency)
    transaction = Transaction(
        command.id, "transfer", command.amount, command.currency, payer.id, payee.id, command.reference, None, now
    )
    return _post(unit, transaction, on_behalf_of=payer)


def _reverse(unit: UnitOfWork, command: Reverse, caller: Caller, now: datetime) -> Result:
    original = unit.originals.get(command.transaction_id)
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
    if original.id in unit.reversed_ids:
        return Refusal(
            "already-reversed", "The transaction has already been reversed; a transaction can be reversed only once."
        )
    transaction = Transaction(
        command.id,
        "reversal",
        original.amount,
        original.currency,
        payer.id,
        payee.id,
        command.reason,
        original.id,
        now,
    )
    result = _post(unit, transaction, on_behalf_of=payer if payer.kind == "customer" else payee)
    if isinstance(result, TransactionResult):
        unit.reversed_ids.add(original.id)
    return result


def _place_hold(unit: UnitOfWork, command: PlaceHold, caller: Caller, now: datetime) -> Result:
    account = _customer_account(unit, command.account_id, caller)
    if account is None:
        return _NO_ACCOUNT
    if account.currency != command.currency:
        return _currency_mismatch(account, command.currency)
    refusal = _check_debit(account, command.amount, account.available)
    if refusal is not None:
        cash = unit.cash_accounts[command.currency]
        transaction = Transaction(
            command.id, "hold", command.amount, command.currency, account.id, cash, None, None, now
        )
        return _refuse(unit, refusal, transaction, on_behalf_of=account)
    account.held += command.amount
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
    return HoldResult(_save_hold(unit, hold, "bank.hold.placed"))


def _find_hold(unit: UnitOfWork, hold_id: str, caller: Caller) -> tuple[Hold, Account] | Refusal:
    """Return a hold that the caller may capture or release, and its account."""
    hold = unit.holds.get(hold_id)
    account = _customer_account(unit, hold.account_id, caller) if hold else None
    if hold is None or account is None:
        return _NO_HOLD
    return (hold, account) if _may_end(hold, caller) else _OPERATOR_HOLD


def _capture_hold(unit: UnitOfWork, command: CaptureHold, caller: Caller, now: datetime) -> Result:
    found = _find_hold(unit, command.hold_id, caller)
    if isinstance(found, Refusal):
        return found
    hold, account = found
    if hold.status != "active" or hold.expires_at <= now:
        return _hold_not_active(hold)
    amount = hold.amount if command.amount is None else command.amount
    if amount > hold.amount:
        covered, requested = (format_amount(value, hold.currency) for value in (hold.amount, amount))
        return Refusal("hold-exceeded", f"The hold covers {covered}, requested {requested}; capture a smaller amount.")
    cash = unit.cash_accounts[hold.currency]
    transaction = Transaction(command.id, "capture", amount, hold.currency, account.id, cash, None, None, now)
    result = _post(unit, transaction, on_behalf_of=account, releases=hold.amount)
    if not isinstance(result, TransactionResult):
        return result
    captured = replace(hold, status="captured", captured_amount=amount, transaction_id=command.id)
    return HoldResult(_save_hold(unit, captured, "bank.hold.captured"), result)


def _release_hold(unit: UnitOfWork, command: ReleaseHold, caller: Caller, now: datetime) -> Result:
    found = _find_hold(unit, command.hold_id, caller)
    if isinstance(found, Refusal):
        return found
    hold, account = found
    is_expired = hold.expires_at <= now
    if hold.status != "active" or is_expired != (command.status == "expired"):
        return _hold_not_active(hold)
    account.held -= hold.amount
    unit.changed_accounts.add(account.id)
    return HoldResult(_save_hold(unit, replace(hold, status=command.status), f"bank.hold.{command.status}"))


def _set_status(unit: UnitOfWork, command: SetStatus, caller: Caller, _now: datetime) -> Result:
    account = _customer_account(unit, command.account_id, caller)
    if account is None:
        return _NO_ACCOUNT
    if account.status == command.status:
        return AccountResult(replace(account))
    if account.status == "closed":
        return _CLOSED
    if command.status == "closed" and (account.balance or account.held):
        return Refusal(
            "balance-not-zero",
            "The account has a balance or active holds; pay out the balance and void the holds first.",
        )
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
    PlaceHold: _place_hold,
    CaptureHold: _capture_hold,
    ReleaseHold: _release_hold,
    SetStatus: _set_status,
}


def _currency_mismatch(account: Account, currency: str) -> Refusal:
    return Refusal(
        "currency-mismatch", f"The account is in {account.currency}, the request in {currency}; use {account.currency}."
    )


def _may_end(hold: Hold, caller: Caller) -> bool:
    # Capturing one cent releases the rest, so a capture ends a hold as well.
    return caller.is_operator or hold.placed_by == "owner"


def _hold_not_active(hold: Hold) -> Refusal:
    status = hold.status if hold.status != "active" else "expired"
    return Refusal("hold-not-active", f"The hold is {status}; place a new hold.")


def _check_debit(account: Account, amount: int, spendable: int) -> Refusal | None:
    if account.status == "closed":
        return _CLOSED
    if account.kind == "cash":
        if account.balance - amount < -MAX_BALANCE:
            return Refusal(
                "balance-limit", f"The bank has reached its limit of deposits in {account.currency}; deposit less."
            )
        return None
    if account.status == "frozen":
        return Refusal(
            "account-frozen", "The account is frozen: it can receive money but not pay; ask an operator to unfreeze it."
        )
    if spendable < amount:
        available, requested = (format_amount(value, account.currency) for value in (max(spendable, 0), amount))
        return Refusal("insufficient-funds", f"Insufficient funds: available {available}, requested {requested}.")
    return None


def _check_credit(account: Account, amount: int) -> Refusal | None:
    if account.status == "closed":
        return _CLOSED
    if account.balance + amount > MAX_BALANCE:
        return Refusal("balance-limit", f"The balance would exceed {format_amount(MAX_BALANCE, account.currency)}.")
    return None


def _post(unit: UnitOfWork, transaction: Transaction, on_behalf_of: Account, releases: int = 0) -> Result:
    """Post the transaction, or refuse it.

    `on_behalf_of` is the account whose owner requested it; `releases` is the held amount released to pay for it.
    """
    payer, payee = unit.accounts[transaction.from_account], unit.accounts[transaction.to_account]
    refusal = _check_debit(payer, transaction.amount, payer.available + releases)
    refusal = refusal or _check_credit(payee, transaction.amount)
    if refusal is not None:
        if refusal.code == "insufficient-funds" and payer is not on_behalf_of:
            refusal = Refusal("insufficient-funds", "Insufficient funds in the account to be debited.")
        return _refuse(unit, refusal, transaction, on_behalf_of)
    payer.held -= releases
    entries = (
        _post_entry(unit, payer, payee.id, -transaction.amount, transaction),
        _post_entry(unit, payee, payer.id, transaction.amount, transaction),
    )
    unit.transactions.append(transaction)
    unit.originals[transaction.id] = transaction
    return TransactionResult(transaction, entries)


def _post_entry(unit: UnitOfWork, account: Account, counterparty: str, amount: int, transaction: Transaction) -> Entry:
    account.balance += amount
    account.seq += 1
    unit.changed_accounts.add(account.id)
    entry = Entry(account.id, account.seq, transaction.id, amount, account.balance)
    unit.entries.append(entry)
    unit.events.append(entry_posted(entry, counterparty, transaction))
    return entry


def _refuse(unit: UnitOfWork, refusal: Refusal, transaction: Transaction, on_behalf_of: Account) -> Refusal:
    """Add the event of a refused transaction; return the refusal with the transaction."""
    unit.events.append(transaction_refused(refusal.code, transaction, on_behalf_of.id))
    return replace(refusal, transaction=transaction)


def _save_hold(unit: UnitOfWork, hold: Hold, event_type: str) -> Hold:
    unit.holds[hold.id] = hold
    unit.changed_holds.add(hold.id)
    unit.events.append(hold_event(event_type, hold))
    return hold
