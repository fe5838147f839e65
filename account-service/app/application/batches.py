"""Batches of the group commit: executed in one database transaction each, and again after a conflict."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.application import flush
from app.application.requests import LedgerRequest, LedgerResponse, flatten
from app.domain.commands import GroupResult, HoldResult, OpenAccount, Refusal, Result, TransactionResult
from app.domain.model import Transaction
from app.prometheus import AMOUNT, TRANSACTIONS, VIOLATIONS
from app.storage import repository
from shared.observability import tracing
from shared.db.database import is_retryable, dry_run_transaction, write_transaction
from shared.events import Event
from shared.ids import utc_now
from shared.prometheus.http import CLIENT_OUTCOMES

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 5
# Time limit for the start of a retry. A lock held for longer is not held by another batch, and clients are waiting.
_RETRY_SECONDS = 5.0


class BatchExecutor:
    """Executes batches one after the other; `on_commit` is called with the events of each that has been committed."""

    def __init__(self, engine: AsyncEngine, on_commit: Callable[[Sequence[Event]], None], *, log_commits: bool) -> None:
        self._engine = engine
        self._on_commit = on_commit
        self._log_commits = log_commits
        # Ids of cash accounts by currency; they never change.
        self._cash_accounts: dict[str, str] = {}

    async def execute(self, requests: Sequence[LedgerRequest]) -> list[LedgerResponse]:
        """Execute a batch and return a response for each request once they are durable."""
        retry_until = time.monotonic() + _RETRY_SECONDS
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                with tracing.span("flush", [request.context.traceparent for request in requests]):
                    return await self._execute_once(requests)
            except Exception as error:  # pylint: disable=broad-exception-caught  # raised again unless it is a conflict
                # Another replica used one of the keys or holds a lock: nothing was written.
                conflict = isinstance(error, IntegrityError) or is_retryable(error)
                if attempt == _MAX_ATTEMPTS or not conflict or time.monotonic() > retry_until:
                    if (constraint := repository.violated_constraint(error)) is not None:
                        VIOLATIONS.labels(constraint).inc()
                    raise
                log.info("flush of %d requests conflicts with another replica, retrying", len(requests))
        raise AssertionError("unreachable")

    async def dry_run(self, requests: Sequence[LedgerRequest]) -> None:
        """Execute requests that need no cash account, and roll back. Raises what `execute` would raise."""
        async with dry_run_transaction(self._engine) as connection:
            await flush.execute(connection, requests, {}, utc_now())

    async def _execute_once(self, requests: Sequence[LedgerRequest]) -> list[LedgerResponse]:
        now = utc_now()
        commands = (request.command for request in flatten(requests))
        opened = {command.currency for command in commands if isinstance(command, OpenAccount)}
        cash_accounts = await self._load_cash_accounts(opened, now)
        async with write_transaction(self._engine) as connection:
            done, responses = await flush.execute(connection, requests, cash_accounts, now)
        # Including those that other replicas have opened.
        self._cash_accounts = done.unit.cash_accounts
        self._on_commit(done.events)
        _count(done.results)
        if self._log_commits:
            request_ids = [request.context.request_id for request in requests]
            trace_ids = tracing.sampled_ids(request.context.traceparent for request in requests)
            log.info("committed", extra={"requests": len(requests), "request_ids": request_ids, "trace_ids": trace_ids})
        return responses

    async def _load_cash_accounts(self, currencies: set[str], now: datetime) -> Mapping[str, str]:
        """Return the known cash accounts; those of the given currencies are opened first where they are missing."""
        if not currencies <= self._cash_accounts.keys():
            async with write_transaction(self._engine) as connection:
                cash_accounts = await repository.open_cash_accounts(connection, currencies, now)
            # Only after the commit: a cash account that was rolled back must not be cached.
            self._cash_accounts = cash_accounts
        return self._cash_accounts


def _count(results: Iterable[tuple[Result, str | None]]) -> None:
    """Count posted and refused transactions in the metrics."""
    for result, client_bucket in results:
        if posted := _posted(result):
            for transaction in posted:
                TRANSACTIONS.labels(transaction.type, "posted", transaction.currency).inc()
                AMOUNT.labels(transaction.type, transaction.currency).inc(transaction.amount)
            status = "posted"
        elif isinstance(result, Refusal) and result.transaction is not None:
            TRANSACTIONS.labels(result.transaction.type, "refused", result.transaction.currency).inc()
            status = "refused"
        else:
            continue
        if client_bucket is not None:
            CLIENT_OUTCOMES.labels(client_bucket, status).inc()


def _posted(result: Result) -> Sequence[Transaction]:
    """Return the transactions that a command has posted."""
    if isinstance(result, GroupResult):
        return [leg.transaction for leg in result.legs]
    posted = result.capture if isinstance(result, HoldResult) else result
    return [posted.transaction] if isinstance(posted, TransactionResult) else []
