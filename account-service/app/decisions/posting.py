"""Posting: checks of debits and credits, and the two entries of a transaction."""

from dataclasses import replace

from app.decisions import daily_limit
from app.domain.commands import Refusal, TransactionResult
from app.domain.events import entry_posted, transaction_refused
from app.domain.model import MAX_BALANCE, MAX_CASH_BALANCE, Account, Entry, Transaction, format_amount
from app.domain.unit_of_work import UnitOfWork
from shared.http.auth import Caller

NO_ACCOUNT = Refusal("not-found", "Account not found; check the id.")
CLOSED = Refusal("account-closed", "The account is closed; use another account.")


def customer_account(unit: UnitOfWork, account_id: str, caller: Caller | None = None) -> Account | None:
    """Return the account if it is a customer's and, where a caller is given, visible to that caller."""
    account = unit.accounts.get(account_id)
    if account is None or account.kind == "cash" or (caller is not None and not caller.may_see(account.owner)):
        return None
    return account


def currency_mismatch(account: Account, currency: str) -> Refusal:
    """Return the refusal of a request in another currency than the account's."""
    return Refusal(
        "currency-mismatch", f"The account is in {account.currency}, the request in {currency}; use {account.currency}."
    )


def check_debit(account: Account, amount: int, spendable: int, *, allow_frozen: bool = False) -> Refusal | None:
    """Return why an account cannot be debited; None if it can."""
    if account.status == "closed":
        return CLOSED
    if account.kind == "cash":
        if account.balance - amount < -MAX_CASH_BALANCE:
            return Refusal(
                "balance-limit", f"The bank has reached its limit of deposits in {account.currency}; deposit less."
            )
        return None
    if account.status == "frozen" and not allow_frozen:
        return Refusal(
            "account-frozen", "The account is frozen: it can receive money but not pay; ask an operator to unfreeze it."
        )
    if spendable < amount:
        available, requested = (format_amount(value, account.currency) for value in (max(spendable, 0), amount))
        return Refusal("insufficient-funds", f"Insufficient funds: available {available}, requested {requested}.")
    return None


def check_credit(account: Account, amount: int) -> Refusal | None:
    """Return why an account cannot be credited; None if it can."""
    if account.status == "closed":
        return CLOSED
    limit = MAX_CASH_BALANCE if account.kind == "cash" else MAX_BALANCE
    if account.balance + amount > limit:
        return Refusal("balance-limit", f"The balance would exceed {format_amount(limit, account.currency)}.")
    return None


def post(
    unit: UnitOfWork, transaction: Transaction, on_behalf_of: Account, releases: int = 0, *, allow_frozen: bool = False
) -> TransactionResult | Refusal:
    """Post the transaction, or refuse it.

    `on_behalf_of` is the account whose owner requested it; `releases` is the held amount released to pay for it;
    `allow_frozen` allows a debit of a frozen account.
    """
    payer, payee = unit.accounts[transaction.from_account], unit.accounts[transaction.to_account]
    refusal = check_debit(payer, transaction.amount, payer.available + releases, allow_frozen=allow_frozen)
    refusal = refusal or daily_limit.check(payer, transaction) or check_credit(payee, transaction.amount)
    if refusal is not None:
        if refusal.code == "insufficient-funds" and payer is not on_behalf_of:
            refusal = Refusal("insufficient-funds", "Insufficient funds in the account to be debited.")
        return refuse(unit, refusal, transaction, on_behalf_of)
    payer.held -= releases
    daily_limit.count(unit, payer, transaction)
    entries = (
        _post_entry(unit, payer, payee.id, -transaction.amount, transaction),
        _post_entry(unit, payee, payer.id, transaction.amount, transaction),
    )
    unit.transactions.append(transaction)
    unit.reversible[transaction.id] = transaction
    return TransactionResult(transaction, entries)


def _post_entry(unit: UnitOfWork, account: Account, counterparty: str, amount: int, transaction: Transaction) -> Entry:
    account.balance += amount
    account.seq += 1
    unit.changed_accounts.add(account.id)
    entry = Entry(account.id, account.seq, transaction.id, amount, account.balance)
    unit.entries.append(entry)
    unit.events.append(entry_posted(entry, counterparty, transaction))
    return entry


def refuse(unit: UnitOfWork, refusal: Refusal, transaction: Transaction, on_behalf_of: Account) -> Refusal:
    """Add the event of a refused transaction; return the refusal with the transaction."""
    unit.events.append(transaction_refused(refusal.code, transaction, on_behalf_of.id))
    return replace(refusal, transaction=transaction)
