"""Decisions about corrections: new transactions that move the money of a posted one back."""

from datetime import datetime

from app.decisions.posting import post
from app.domain.commands import Refusal, Reverse, TransactionResult
from app.domain.model import Transaction, format_amount
from app.domain.unit_of_work import UnitOfWork
from shared.http.auth import Caller

_NO_TRANSACTION = Refusal("not-found", "Transaction not found; check the id.")


def reverse(unit: UnitOfWork, command: Reverse, caller: Caller, now: datetime) -> TransactionResult | Refusal:
    """Reverse a part of a transaction, or all that is left of it."""
    original = unit.reversible.get(command.transaction_id)
    if original is None or not may_see(unit, original, caller):
        return _NO_TRANSACTION
    payer, payee = unit.accounts[original.to_account], unit.accounts[original.from_account]
    if payer.kind == "cash":
        allowed = caller.is_operator or caller.is_cash_desk
    else:
        allowed = caller.may_see(payer.owner)
    if not allowed:
        return Refusal("forbidden", "Only the recipient of the money or an operator can reverse this transaction.")
    if original.type == "reversal":
        return Refusal("not-reversible", "A reversal cannot be reversed; post a new transaction instead.")
    left = left_to_reverse(unit, original)
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
        command.group_id,
    )
    result = post(unit, transaction, on_behalf_of=payer if payer.kind == "customer" else payee)
    if isinstance(result, TransactionResult):
        unit.reversed_amounts[original.id] = unit.reversed_amounts.get(original.id, 0) + amount
    return result


def may_see(unit: UnitOfWork, original: Transaction, caller: Caller) -> bool:
    """Return whether the caller may see a transaction: as the owner of one of its accounts, or as an operator."""
    accounts = (unit.accounts[id_] for id_ in (original.from_account, original.to_account))
    return any(caller.may_see(account.owner) for account in accounts if account.kind == "customer")


def left_to_reverse(unit: UnitOfWork, original: Transaction) -> int:
    """Return the amount of a transaction that has not been reversed."""
    return original.amount - unit.reversed_amounts.get(original.id, 0)


def _reversal_exceeded(original: Transaction, left: int, amount: int) -> Refusal:
    if not left:
        return Refusal("already-reversed", "The whole transaction has already been reversed.")
    available, requested = (format_amount(value, original.currency) for value in (left, amount))
    return Refusal("reversal-exceeded", f"Left to reverse: {available}, requested {requested}; reverse less.")
