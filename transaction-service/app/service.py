"""The read side: answers queries on the history, and decides what each caller may see."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import statements
from app.application.reconciler import Reconciler
from app.domain import completeness
from app.domain.completeness import LedgerAccount, LedgerState
from app.ledger_client import LedgerClient
from app.statements import Line, Statement, Totals
from app.storage import queries, ranges, search
from app.storage.queries import TransactionFilter
from shared.db.database import reader
from shared.http.auth import Caller, require_operator
from shared.ids import rfc3339, utc_now
from shared.http.problems import Problem
from shared.http.views import transaction_view


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of transactions, and whether the period is complete; before `complete_through` none is missing.

    `continue_after` is the id that a search has read last, if it has not read all entries.
    """

    items: list[dict[str, Any]]
    complete: bool
    complete_through: datetime | None
    continue_after: str | None


class TransactionService:
    """Queries of transactions, statements and flags, and a reconciliation on demand."""

    def __init__(self, engine: AsyncEngine, ledger: LedgerClient, reconciler: Reconciler) -> None:
        self._engine = reader(engine)
        self._ledger = ledger
        self._reconciler = reconciler

    async def transactions(self, caller: Caller, filter_: TransactionFilter, before: str | None, limit: int) -> Listing:
        """Return the transactions of the caller's accounts (operators: all), newest first.

        Raises Problem: not-found for another owner's account, or validation-failed for an empty period or range of
        amounts, or a search without an account.
        """
        statements.check_period(filter_.start, filter_.end)
        _check_search(filter_)
        end = filter_.end or utc_now()
        ledger = await self._ledger_state(filter_)
        async with self._engine.connect() as connection:
            if filter_.account_id is not None and not caller.is_operator:
                await _visible_account(connection, caller, filter_.account_id, ledger)
            through = await _complete_through(connection, filter_, ledger)
            rows, continue_after = await _rows(connection, filter_, before, limit)
            items = await _transaction_views(connection, caller, rows)
        return Listing(items, through is not None and end <= through, through, continue_after)

    async def _ledger_state(self, filter_: TransactionFilter) -> LedgerState | None:
        """Query account-service for the last `seq` of the listed accounts."""
        if filter_.account_id is not None:
            return await self._ledger.state_of_account(filter_.account_id)
        return await self._ledger.state_of_owner(filter_.owner) if filter_.owner is not None else None

    async def transaction(self, caller: Caller, transaction_id: str) -> dict[str, Any]:
        """Return a transaction of one of the caller's accounts (operators: any). Raises Problem (not-found)."""
        async with self._engine.connect() as connection:
            row = await queries.transaction(connection, transaction_id)
            entries = (await queries.entries_of(connection, [row]))[row.id] if row else []
        if row is None or not (caller.is_operator or any(_may_see(caller, entry) for entry in entries)):
            raise Problem("not-found", "Transaction not found.")
        return _transaction_view(caller, row, entries)

    async def statement(
        self, caller: Caller, account_id: str, start: datetime | None, end: datetime | None
    ) -> Statement:
        """Return a statement, with its first lines, of one of the caller's accounts (operators: any).

        Raises Problem: not-found, or validation-failed for an empty or too long period.
        """
        start, end = statements.period(start, end, utc_now())
        ledger = await self._ledger.state_of_account(account_id)
        async with self._engine.connect() as connection:
            account = await _visible_account(connection, caller, account_id, ledger)
            # Read first: later reads then include everything that it covers.
            gapless = (await ranges.gapless_ranges(connection, [account_id]))[account_id]
            opening = await queries.balance_at(connection, account_id, start)
            closing = max(opening, await queries.balance_at(connection, account_id, end))
            lines = await queries.lines(connection, account_id, opening.seq, closing.seq)
        watermark = completeness.watermark(gapless, account_id, ledger)
        number = account.account_number if isinstance(account, Row) else None
        return Statement(account_id, number, account.currency, start, end, opening, closing, watermark, lines)

    async def next_lines(self, statement: Statement, after: int) -> list[Line]:
        """Return the next lines of a statement, in a separate transaction."""
        async with self._engine.connect() as connection:
            return await queries.lines(connection, statement.account_id, after, statement.closing.seq)

    async def totals(self, statement: Statement, after: int, last: int) -> Totals:
        """Return the totals of a statement's entries after a `seq` up to another one."""
        async with self._engine.connect() as connection:
            return await queries.totals(connection, statement.account_id, after, last)

    async def flags(
        self, caller: Caller, account_id: str | None, after: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return the findings of the fraud rules, newest first. Raises Problem (forbidden) unless for an operator."""
        require_operator(caller)
        async with self._engine.connect() as connection:
            rows = await queries.list_flags(connection, account_id, after, limit)
        return [
            {
                "id": flag.id,
                "transaction_id": flag.transaction_id,
                "account_id": flag.account_id,
                "rule": flag.rule,
                "score": flag.score,
                "action": flag.action,
                "created_at": rfc3339(flag.created_at),
            }
            for flag in rows
        ]

    async def reconciliation(self, caller: Caller) -> dict[str, Any]:
        """Compare all accounts now. Raises Problem: forbidden unless for an operator, or unavailable."""
        require_operator(caller)
        return await self._reconciler.reconcile()


def _check_search(filter_: TransactionFilter) -> None:
    if filter_.searches and filter_.account_id is None:
        errors = [{"pointer": "/query/account_id", "detail": "required by the other filters"}]
        raise Problem("validation-failed", "A search needs an account; send `account_id`.", errors)
    if filter_.metadata_value is not None and filter_.metadata_key is None:
        errors = [{"pointer": "/query/metadata_key", "detail": "required by `metadata_value`"}]
        raise Problem("validation-failed", "A value of metadata needs its key; send `metadata_key`.", errors)
    if filter_.min_amount is not None and filter_.max_amount is not None and filter_.min_amount > filter_.max_amount:
        errors = [{"pointer": "/query/max_amount", "detail": "less than `min_amount`"}]
        raise Problem("validation-failed", "No amount is in the range; raise `max_amount`.", errors)


async def _rows(
    connection: AsyncConnection, filter_: TransactionFilter, before: str | None, limit: int
) -> tuple[list[Row[Any]], str | None]:
    """Return a page of transactions, and the id after which a search continues."""
    if filter_.account_id is not None and (filter_.searches or filter_.type is not None):
        return await search.search_transactions(connection, filter_, before, limit)
    return await queries.list_transactions(connection, filter_, before, limit), None


async def _complete_through(
    connection: AsyncConnection, filter_: TransactionFilter, ledger: LedgerState | None
) -> datetime | None:
    """Return up to when the history of the listed accounts is complete; None if unknown."""
    if filter_.account_id is not None:
        account_ids = [filter_.account_id]
    elif ledger is not None:
        account_ids = list(ledger.accounts)
    else:
        return None
    gapless = await ranges.gapless_ranges(connection, account_ids)
    watermarks = [completeness.watermark(gapless[id_], id_, ledger) for id_ in account_ids]
    if not watermarks and ledger is not None:
        return ledger.as_of
    return completeness.complete_through(watermarks)


async def _visible_account(
    connection: AsyncConnection, caller: Caller, account_id: str, ledger: LedgerState | None
) -> Row[Any] | LedgerAccount:
    """Return an account from the history, or from the ledger if its event has not arrived yet."""
    in_history = await queries.account(connection, account_id)
    account = in_history if in_history is not None or ledger is None else ledger.accounts.get(account_id)
    if account is None or not caller.may_see(account.owner):
        raise Problem("not-found", "Account not found.")
    return account


def _may_see(caller: Caller, entry: Row[Any]) -> bool:
    # The bank's own accounts have no owner here; only operators see them.
    return caller.is_operator or (entry.owner is not None and caller.may_see(entry.owner))


async def _transaction_views(
    connection: AsyncConnection, caller: Caller, rows: Sequence[Row[Any]]
) -> list[dict[str, Any]]:
    entries = await queries.entries_of(connection, rows) if rows else {}
    return [_transaction_view(caller, transaction, entries[transaction.id]) for transaction in rows]


def _transaction_view(caller: Caller, transaction: Row[Any], entries: Iterable[Row[Any]]) -> dict[str, Any]:
    # A refused transaction has no entries.
    visible = [(entry, _may_see(caller, entry)) for entry in entries if entry.seq is not None]
    view = transaction_view(transaction, transaction.status, visible)
    if transaction.code is not None:
        view["code"] = transaction.code
    return view
