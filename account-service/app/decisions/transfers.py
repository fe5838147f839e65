"""Decisions about transfers."""

from datetime import datetime

from app.decisions.posting import NO_ACCOUNT, currency_mismatch, customer_account, post
from app.domain.commands import Refusal, TransactionResult, Transfer
from app.domain.model import Transaction
from app.domain.unit_of_work import UnitOfWork
from shared.http.auth import Caller


def transfer(unit: UnitOfWork, command: Transfer, caller: Caller, now: datetime) -> TransactionResult | Refusal:
    """Move money between two accounts of the same currency."""
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
        command.group_id,
    )
    return post(unit, transaction, on_behalf_of=payer)
