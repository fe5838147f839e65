"""The ledger's decisions: plain functions on plain data, without clock, network or database.

A `Book` holds the accounts that a batch touches, as they are under their locks. `decide` takes the requests in the
order they came, moves the money inside the book, or refuses and changes nothing. What has to be written is then read
off the book.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.book import (
    MAX_BALANCE,
    Account,
    AccountIs,
    Book,
    CaptureHold,
    Command,
    Deposit,
    Entry,
    Fact,
    Hold,
    HoldIs,
    OpenAccount,
    Outcome,
    PlaceHold,
    Posted,
    Refused,
    ReleaseHold,
    Reverse,
    SetStatus,
    Transaction,
    Transfer,
    Withdraw,
    account_data,
    hold_data,
)
from shared.http.auth import Caller
from shared.ids import rfc3339

_NO_ACCOUNT = Refused("not-found", "There is no such account.")
_NO_HOLD = Refused("not-found", "There is no such hold.")
_NO_TRANSACTION = Refused("not-found", "There is no such transaction.")
_NOT_THEIR_HOLD = Refused("forbidden", "Only an operator can capture or void a hold that the owner did not place.")
_LEAVES = Refused("forbidden", "A token with the scope bank:synthetic opens, funds and uses accounts of its own only.")
_CLOSED = Refused("account-closed", "The account is closed.")
_STATUS_EVENTS = {"frozen": "bank.account.frozen", "active": "bank.account.unfrozen", "closed": "bank.account.closed"}


def decide(book: Book, command: Command, caller: Caller, now: datetime) -> Outcome:
    """Carry out one command in the book, or refuse it and leave balances, entries and holds as they were."""
    if caller.is_synthetic and not _stays_within(book, command, caller):
        return _LEAVES
    return _DECISIONS[type(command)](book, command, caller, now)


def _stays_within(book: Book, command: Command, caller: Caller) -> bool:
    """Tell whether a command is about accounts of the caller's own and brings no money out of them."""
    if isinstance(command, Transfer):
        named = {command.from_account, command.to_account}
    elif isinstance(command, Deposit):
        named = {command.account_id}
    else:
        return isinstance(command, OpenAccount)
    accounts = (_customer_account(book, account_id) for account_id in named)
    return all(account is not None and account.owner == caller.subject for account in accounts)


def _customer_account(book: Book, account_id: str, caller: Caller | None = None) -> Account | None:
    """Return the account if it is a customer's and, where a caller is given, visible to that caller."""
    account = book.accounts.get(account_id)
    if account is None or account.kind == "cash" or (caller is not None and not caller.may_see(account.owner)):
        return None
    return account


def _open(book: Book, command: OpenAccount, caller: Caller, now: datetime) -> Outcome:
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
    book.accounts[account.id] = account
    book.opened.append(account)
    book.facts.append(Fact("bank.account.opened", account.id, account_data(account)))
    return AccountIs(replace(account))


def _move_cash(book: Book, command: Deposit | Withdraw, caller: Caller, now: datetime) -> Outcome:
    account = _customer_account(book, command.account_id, caller)
    if account is None:
        return _NO_ACCOUNT
    if account.currency != command.currency:
        return _currency_mismatch(account, command.currency)
    cash = book.cash[command.currency]
    if isinstance(command, Deposit):
        type_, payer, payee = "deposit", cash, account.id
    else:
        type_, payer, payee = "withdrawal", account.id, cash
    movement = Transaction(
        command.id, type_, command.amount, command.currency, payer, payee, command.reference, None, now
    )
    return _move(book, movement, subject=account)


def _transfer(book: Book, command: Transfer, caller: Caller, now: datetime) -> Outcome:
    payer = _customer_account(book, command.from_account, caller)
    if payer is None:
        return _NO_ACCOUNT
    if command.from_account == command.to_account:
        return Refused("same-account", "A transfer needs two different accounts.")
    payee = _customer_account(book, command.to_account)
    if payee is None:
        return _NO_ACCOUNT
    for account in (payer, payee):
        if account.currency != command.currency:
            return _currency_mismatch(account, command.currency)
    return _move(
        book,
        Transaction(
            command.id, "transfer", command.amount, command.currency, payer.id, payee.id, command.reference, None, now
        ),
        subject=payer,
    )


def _reverse(book: Book, command: Reverse, caller: Caller, now: datetime) -> Outcome:
    original = book.originals.get(command.transaction_id)
    if original is None:
        return _NO_TRANSACTION
    giver, receiver = book.accounts[original.to_account], book.accounts[original.from_account]
    if not any(caller.may_see(account.owner) for account in (giver, receiver) if account.kind == "customer"):
        return _NO_TRANSACTION
    if giver.kind == "cash":
        allowed = caller.is_operator or caller.is_cash_desk
    else:
        allowed = caller.may_see(giver.owner)
    if not allowed:
        return Refused("forbidden", "Only who received the money, or an operator, can give it back.")
    if original.type == "reversal":
        return Refused("not-reversible", "A reversal cannot be reversed; make a new transaction instead.")
    if original.id in book.reversed:
        return Refused("already-reversed", "This transaction has been reversed before.")
    outcome = _move(
        book,
        Transaction(
            command.id,
            "reversal",
            original.amount,
            original.currency,
            giver.id,
            receiver.id,
            command.reason,
            original.id,
            now,
        ),
        subject=giver if giver.kind == "customer" else receiver,
    )
    if isinstance(outcome, Posted):
        book.reversed.add(original.id)
    return outcome


def _place_hold(book: Book, command: PlaceHold, caller: Caller, now: datetime) -> Outcome:
    account = _customer_account(book, command.account_id, caller)
    if account is None:
        return _NO_ACCOUNT
    if account.currency != command.currency:
        return _currency_mismatch(account, command.currency)
    refusal = _why_not_debit(account, command.amount, account.available)
    if refusal is not None:
        movement = Transaction(
            command.id,
            "hold",
            command.amount,
            command.currency,
            account.id,
            book.cash[command.currency],
            None,
            None,
            now,
        )
        return _refused(book, refusal, movement, subject=account)
    account.held += command.amount
    book.changed.add(account.id)
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
    return HoldIs(_save_hold(book, hold, "bank.hold.placed"))


def _capture_hold(book: Book, command: CaptureHold, caller: Caller, now: datetime) -> Outcome:
    hold = book.holds.get(command.hold_id)
    account = _customer_account(book, hold.account_id, caller) if hold else None
    if hold is None or account is None:
        return _NO_HOLD
    if not _may_end(hold, caller):
        return _NOT_THEIR_HOLD
    if hold.status != "active" or hold.expires_at <= now:
        return _hold_not_active(hold)
    amount = hold.amount if command.amount is None else command.amount
    if amount > hold.amount:
        return Refused("hold-exceeded", f"The hold covers {hold.amount}; capture that or less.")
    cash = book.cash[hold.currency]
    # The hold's own money pays for it.
    movement = Transaction(command.id, "capture", amount, hold.currency, account.id, cash, None, None, now)
    outcome = _move(book, movement, subject=account, releasing=hold.amount)
    if not isinstance(outcome, Posted):
        return outcome
    captured = replace(hold, status="captured", captured_amount=amount, transaction_id=command.id)
    return HoldIs(_save_hold(book, captured, "bank.hold.captured"), outcome)


def _release_hold(book: Book, command: ReleaseHold, caller: Caller, now: datetime) -> Outcome:
    hold = book.holds.get(command.hold_id)
    account = _customer_account(book, hold.account_id, caller) if hold else None
    if hold is None or account is None:
        return _NO_HOLD
    if not _may_end(hold, caller):
        return _NOT_THEIR_HOLD
    due = hold.expires_at <= now
    if hold.status != "active" or due != (command.status == "expired"):
        return _hold_not_active(hold)
    account.held -= hold.amount
    book.changed.add(account.id)
    return HoldIs(_save_hold(book, replace(hold, status=command.status), f"bank.hold.{command.status}"))


def _set_status(book: Book, command: SetStatus, caller: Caller, _now: datetime) -> Outcome:
    account = _customer_account(book, command.account_id, caller)
    if account is None:
        return _NO_ACCOUNT
    if account.status == command.status:
        return AccountIs(replace(account))
    if account.status == "closed":
        return _CLOSED
    if command.status == "closed" and (account.balance or account.held):
        return Refused("balance-not-zero", "Pay out the balance and void the holds before closing the account.")
    account.status = command.status
    book.changed.add(account.id)
    book.facts.append(Fact(_STATUS_EVENTS[command.status], account.id, account_data(account)))
    return AccountIs(replace(account))


_DECISIONS: dict[type, Callable[[Book, Any, Caller, datetime], Outcome]] = {
    OpenAccount: _open,
    Deposit: _move_cash,
    Withdraw: _move_cash,
    Transfer: _transfer,
    Reverse: _reverse,
    PlaceHold: _place_hold,
    CaptureHold: _capture_hold,
    ReleaseHold: _release_hold,
    SetStatus: _set_status,
}


def _currency_mismatch(account: Account, currency: str) -> Refused:
    return Refused("currency-mismatch", f"The account keeps {account.currency}, the request is in {currency}.")


def _may_end(hold: Hold, caller: Caller) -> bool:
    # A capture ends a hold, too: of one cent, it sets the rest free.
    return caller.is_operator or hold.placed_by == "owner"


def _hold_not_active(hold: Hold) -> Refused:
    status = hold.status if hold.status != "active" else "expired"
    return Refused("hold-not-active", f"The hold is {status}.")


def _why_not_debit(account: Account, amount: int, spendable: int) -> Refused | None:
    if account.status == "closed":
        return _CLOSED
    if account.kind == "cash":
        if account.balance - amount < -MAX_BALANCE:
            return Refused("balance-limit", "The bank holds as much of this currency as it can.")
        return None
    if account.status == "frozen":
        return Refused("account-frozen", "The account is frozen; it can receive money but not pay.")
    if spendable < amount:
        return Refused("insufficient-funds", f"Available are {max(spendable, 0)}, needed are {amount}.")
    return None


def _why_not_credit(account: Account, amount: int) -> Refused | None:
    if account.status == "closed":
        return _CLOSED
    if account.balance + amount > MAX_BALANCE:
        return Refused("balance-limit", f"The balance may not exceed {MAX_BALANCE}.")
    return None


def _move(book: Book, movement: Transaction, subject: Account, releasing: int = 0) -> Outcome:
    """Post the movement, or refuse it and tell so; `releasing` is held money that pays for it and is freed."""
    payer, payee = book.accounts[movement.from_account], book.accounts[movement.to_account]
    refusal = _why_not_debit(payer, movement.amount, payer.available + releasing)
    refusal = refusal or _why_not_credit(payee, movement.amount)
    if refusal is not None:
        if refusal.code == "insufficient-funds" and payer is not subject:
            refusal = Refused("insufficient-funds", "The account to be debited does not have the money.")
        return _refused(book, refusal, movement, subject)
    payer.held -= releasing
    entries = (
        _enter(book, payer, payee.id, -movement.amount, movement),
        _enter(book, payee, payer.id, movement.amount, movement),
    )
    book.transactions.append(movement)
    book.originals[movement.id] = movement
    return Posted(movement, entries)


def _refused(book: Book, refusal: Refused, movement: Transaction, subject: Account) -> Refused:
    """Tell others that a movement was refused; return the refusal."""
    pays = subject.id == movement.from_account
    book.facts.append(
        Fact(
            "bank.transaction.refused",
            subject.id,
            {
                "transaction_id": movement.id,
                "type": movement.type,
                "code": refusal.code,
                "account_id": subject.id,
                "counterparty": movement.to_account if pays else movement.from_account,
                "amount": movement.amount,
                "currency": movement.currency,
                "reference": movement.reference,
                "created_at": rfc3339(movement.created_at),
                "direction": "debit" if pays else "credit",
            },
        )
    )
    return replace(refusal, movement=movement)


def _enter(book: Book, account: Account, counterparty: str, amount: int, movement: Transaction) -> Entry:
    account.balance += amount
    account.seq += 1
    book.changed.add(account.id)
    entry = Entry(account.id, account.seq, movement.id, amount, account.balance)
    book.entries.append(entry)
    book.facts.append(
        Fact(
            "bank.entry.posted",
            account.id,
            {
                "transaction_id": movement.id,
                "type": movement.type,
                "account_id": account.id,
                "counterparty": counterparty,
                "amount": amount,
                "currency": movement.currency,
                "seq": entry.seq,
                "balance_after": entry.balance_after,
                "reference": movement.reference,
                "reverses": movement.reverses,
                "created_at": rfc3339(movement.created_at),
            },
        )
    )
    return entry


def _save_hold(book: Book, hold: Hold, fact: str) -> Hold:
    book.holds[hold.id] = hold
    book.changed_holds.add(hold.id)
    book.facts.append(Fact(fact, hold.account_id, hold_data(hold)))
    return hold
