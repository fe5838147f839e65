"""Reads: accounts for their owners, the audit log for operators, balances for reconciliation."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.application.audit import audit_data, hold_change
from app.domain.audit import AuditFilter
from app.domain.model import Account, account_data, balance_data, hold_data
from app.storage import audit_log, balance_history, hold_rows, repository
from shared.db.database import reader
from shared.http.auth import Caller, require_operator
from shared.ids import rfc3339, utc_now
from shared.http.problems import Problem

# The newest changes of a hold; operators read older ones in the audit log.
_MAX_HOLD_CHANGES = 100


class Queries:
    """Reads the ledger; every read uses its own connection and takes no locks."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = reader(engine)

    async def account(self, caller: Caller, account_id: str) -> dict[str, Any]:
        """Return an account of the caller (operators: any account). Raises Problem (not-found)."""
        async with self._engine.connect() as connection:
            return account_data(await _visible_account(connection, caller, account_id))

    async def balance(
        self, caller: Caller, account_id: str, at: datetime | None, transaction_id: str | None
    ) -> dict[str, Any]:
        """Return the balance of an account at a time, after a transaction, or now.

        Raises Problem: not-found, or validation-failed for a time in the future or before the account was opened.
        """
        async with self._engine.connect() as connection:
            account = await _visible_account(connection, caller, account_id)
            if transaction_id is not None:
                balance = await balance_history.after_transaction(connection, account, transaction_id)
                if balance is None:
                    raise Problem("not-found", "The account has no entry of this transaction; check both ids.")
            else:
                as_of = utc_now() if at is None else at
                _check_time(account, as_of)
                balance = await balance_history.at_time(connection, account, as_of)
        return balance_data(account, balance)

    async def accounts(self, caller: Caller, after: str | None, limit: int) -> list[Account]:
        """Return the caller's accounts (operators: all accounts) in id order, after an id."""
        owner = None if caller.is_operator else caller.subject
        async with self._engine.connect() as connection:
            return await repository.customer_accounts(connection, owner, after, limit)

    async def holds(
        self, caller: Caller, account_id: str, status: str | None, before: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return the holds of an account of the caller, newest first. Raises Problem (not-found)."""
        async with self._engine.connect() as connection:
            await _visible_account(connection, caller, account_id)
            page = await hold_rows.of_account(connection, account_id, status, before, limit)
        return [hold_data(hold) for hold in page]

    async def hold(self, caller: Caller, hold_id: str) -> dict[str, Any]:
        """Return a hold on an account of the caller, and who changed it. Raises Problem (not-found)."""
        async with self._engine.connect() as connection:
            hold = await hold_rows.find(connection, hold_id)
            account = await repository.find_account(connection, hold.account_id) if hold else None
            if hold is None or account is None or not caller.may_see(account.owner):
                raise Problem("not-found", "Hold not found; check the id.")
            changes = await hold_rows.changes(connection, hold_id, _MAX_HOLD_CHANGES)
        return {**hold_data(hold), "changes": [hold_change(change, caller) for change in changes]}

    async def audit_entries(
        self, caller: Caller, criteria: AuditFilter, before: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return changes, newest first. Raises Problem (forbidden) unless the caller is an operator."""
        require_operator(caller)
        async with self._engine.connect() as connection:
            audited = await audit_log.read(connection, criteria, before, limit)
        return [audit_data(entry) for entry in audited]

    async def balances(self, after: str | None, limit: int) -> list[dict[str, Any]]:
        """Return id, currency, balance, seq and time of the last change of all accounts, for reconciliation."""
        async with self._engine.connect() as connection:
            rows = await repository.balances(connection, after, limit)
        return [
            {
                "id": row.id,
                "currency": row.currency,
                "balance": row.balance,
                "seq": row.seq,
                "updated_at": rfc3339(row.updated_at),
            }
            for row in rows
        ]

    async def seqs(self, account_id: str | None, owner: str | None, limit: int) -> list[dict[str, Any]]:
        """Return id, owner, currency and seq of an account, or of an owner's accounts, for transaction-service."""
        async with self._engine.connect() as connection:
            rows = await repository.seqs(connection, account_id, owner, limit)
        return [{"id": row.id, "owner": row.owner, "currency": row.currency, "seq": row.seq} for row in rows]

    async def imbalance(self) -> Mapping[str, int]:
        """Return the sum of all balances per currency; it is zero unless the ledger is inconsistent."""
        async with self._engine.connect() as connection:
            return await repository.imbalance(connection)


async def _visible_account(connection: AsyncConnection, caller: Caller, account_id: str) -> Account:
    account = await repository.find_account(connection, account_id)
    if account is None or account.kind == "cash" or not caller.may_see(account.owner):
        raise Problem("not-found", "Account not found; check the id.")
    return account


def _check_time(account: Account, at: datetime) -> None:
    if at > utc_now():
        detail = "is in the future"
    elif at < account.created_at:
        detail = f"is before the account was opened, at {rfc3339(account.created_at)}"
    else:
        return
    errors = [{"pointer": "/query/at", "detail": detail}]
    raise Problem("validation-failed", f"The time `at` {detail}; choose another one.", errors)
