"""The rules of account-service: what a request may do, one effect per key, and batches that commit as one."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app import audit_repository, flush, repository
from app.audit import AuditFilter, audit_data
from app.book import Account, OpenAccount, ReleaseHold, account_data
from app.models import feed_state, idempotency_keys
from app.prometheus import BATCH_SIZE, VIOLATIONS
from app.quota import FairQueue, Quota
from app.settings import AccountSettings
from app.work import EVENT_SUBJECT, SYSTEM, Answer, Trace, Work, flatten, size_of
from shared.http import idempotency, problems
from shared.observability import tracing
from shared.http.auth import Caller, require_operator
from shared.messaging.consumer import Move
from shared.db.database import is_retryable, is_unavailable, rehearsal, write_transaction
from shared.events import Event
from shared.group_commit import Closed, GroupCommit, QueueFull
from shared.ids import rfc3339, utc_now
from shared.http.problems import Problem

log = logging.getLogger(__name__)

_FLUSH_TRIES = 5
# Each piece is forgotten well within the time that a statement may take.
_KEYS_AT_ONCE = 10_000


class AccountService:
    """The one way to change the ledger; everything goes through the group commit."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: AccountSettings,
        committed: Callable[[Sequence[Event]], None] = lambda events: None,
    ) -> None:
        self._engine = engine
        self._committed = committed
        self._settings = settings
        self._cash: dict[str, str] = {}
        self._quota = Quota(settings.subject_operations_per_second, settings.subject_operations_burst)
        # Half of the queue is always for others.
        self._fair_queue = FairQueue(settings.group_commit_max_waiting // 2)
        self._running: set[tuple[str, str]] = set()
        self._group: GroupCommit[Work, Answer] = GroupCommit(
            self._flush,
            divisible=lambda error: not is_unavailable(error),
            size=size_of,
            max_batch=settings.group_commit_max_batch,
            max_waiting=settings.group_commit_max_waiting,
            on_batch=BATCH_SIZE.observe,
        )

    async def execute(self, work: Work) -> Answer:
        """Return the answer once it is durable; a repeated key gets the stored one.

        Raises Problem: request-in-progress while this process works on the same key, idempotency-key-reused,
        rate-limited, or unavailable when too much waits already or the service is stopping.
        """
        if not work.caller.is_operator:
            self._quota.admit(work.caller.subject, size_of(work))
        if work.key is not None:
            if work.key in self._running:
                raise Problem(
                    "request-in-progress",
                    "The first request with this key is still running; ask again for its result.",
                    headers={"Retry-After": "1"},
                )
            self._running.add(work.key)
        try:
            with (
                self._fair_queue.place(work.caller.subject, size_of(work)),
                tracing.span("group commit", [work.trace.traceparent]),
            ):
                return await self._group.submit(work)
        except QueueFull as error:
            raise problems.unavailable("Too many requests are waiting; retry with the same key.") from error
        except Closed as error:
            raise problems.unavailable("This replica is stopping; retry with the same key.") from error
        finally:
            if work.key is not None:
                self._running.discard(work.key)

    async def replay(self, caller: Caller, key: str, request_hash: bytes, trace: Trace) -> Answer | None:
        """Return the answer to a request whose key has been used, as `execute` does; None if it has not been used.

        Raises Problem (rate-limited).
        """
        if not caller.is_operator:
            self._quota.admit(caller.subject, 1)
        used = caller.subject, key
        async with self._engine.connect() as connection:
            stored = (await idempotency.find(connection, idempotency_keys, [used])).get(used)
        return None if stored is None else flush.replay(stored, request_hash, trace)

    async def drain(self) -> None:
        """Settle what was taken and take no more."""
        await self._group.drain()

    async def _flush(self, batch: Sequence[Work]) -> list[Answer]:
        for attempt in range(1, _FLUSH_TRIES + 1):
            try:
                with tracing.span("flush", [work.trace.traceparent for work in batch]):
                    return await self._flush_once(batch)
            except Exception as error:  # pylint: disable=broad-exception-caught  # raised again unless it is known
                # A key that another replica used meanwhile, or a lock conflict: nothing was written, look again.
                if attempt == _FLUSH_TRIES or not (isinstance(error, IntegrityError) or is_retryable(error)):
                    if (constraint := repository.violated(error)) is not None:
                        VIOLATIONS.labels(constraint).inc()
                    raise
                log.info("flush of %d requests conflicts with another replica, trying again", len(batch))
        raise AssertionError("unreachable")

    async def _flush_once(self, batch: Sequence[Work]) -> list[Answer]:
        now = utc_now()
        works = list(flatten(batch))
        opened = {work.command.currency for work in works if isinstance(work.command, OpenAccount)}
        cash = await self._cash_for(opened, now)
        async with write_transaction(self._engine) as connection:
            done, answers = await flush.write(connection, batch, works, cash, now)
        # With those that other replicas opened.
        self._cash = done.book.cash
        self._committed(done.events)
        flush.count(done.outcomes)
        if self._settings.access_log:
            requests = [work.trace.request_id for work in batch]
            traces = tracing.sampled_ids(work.trace.traceparent for work in batch)
            log.info("committed", extra={"requests": len(batch), "request_ids": requests, "trace_ids": traces})
        return answers

    async def rehearse(self, batch: Sequence[Work]) -> None:
        """Do all that a flush does with work that needs no cash account, and take it back. Raises what it raises."""
        async with rehearsal(self._engine) as connection:
            await flush.write(connection, batch, batch, {}, utc_now())

    async def _cash_for(self, currencies: set[str], now: datetime) -> dict[str, str]:
        """Return the cash accounts that are known; those of currencies in which accounts are opened exist then."""
        if not currencies <= self._cash.keys():
            async with write_transaction(self._engine) as connection:
                cash = await repository.cash_accounts(connection, currencies, now)
            # Not before the commit: what was taken back must not be remembered.
            self._cash = cash
        return self._cash

    async def account(self, caller: Caller, account_id: str) -> dict[str, Any]:
        """Return an account of the caller's (operators: any). Raises Problem (not-found)."""
        async with self._engine.connect() as connection:
            found = await repository.find_account(connection, account_id)
        if found is None or found.kind == "cash" or not caller.may_see(found.owner):
            raise Problem("not-found", "There is no such account.")
        return account_data(found)

    async def accounts(self, caller: Caller, after: str | None, limit: int) -> list[Account]:
        """Return the caller's accounts (operators: all) in id order, after an id."""
        owner = None if caller.is_operator else caller.subject
        async with self._engine.connect() as connection:
            return await repository.customer_accounts(connection, owner, after, limit)

    async def audit(self, caller: Caller, wanted: AuditFilter, before: str | None, limit: int) -> list[dict[str, Any]]:
        """Return who changed what, the newest first. Raises Problem (forbidden) unless for an operator."""
        require_operator(caller)
        async with self._engine.connect() as connection:
            found = await audit_repository.read(connection, wanted, before, limit)
        return [audit_data(entry) for entry in found]

    async def balances(self, after: str | None, limit: int) -> list[dict[str, Any]]:
        """Return id, currency, balance, seq and time of change of all accounts, for reconciliation."""
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
        """Return id, owner, currency and seq of an account, or of an owner's accounts, for the history."""
        async with self._engine.connect() as connection:
            rows = await repository.seqs(connection, account_id, owner, limit)
        return [{"id": row.id, "owner": row.owner, "currency": row.currency, "seq": row.seq} for row in rows]

    async def release_expired_holds(self, limit: int = 500) -> int:
        """Release holds whose time is over; return how many were due."""
        async with self._engine.connect() as connection:
            due = await repository.expired_holds(connection, utc_now(), limit)
        works = [Work(SYSTEM, ReleaseHold(hold_id, "expired"), 200, Trace("/holds")) for hold_id in due]
        await asyncio.gather(*(self.execute(work) for work in works))
        return len(due)

    async def forget_old_keys(self) -> None:
        """Delete idempotency keys that are older than the retention, those of events never."""
        before = utc_now() - timedelta(days=self._settings.idempotency_retention_days)
        forgotten = _KEYS_AT_ONCE
        while forgotten == _KEYS_AT_ONCE:
            async with write_transaction(self._engine) as connection:
                forgotten = await idempotency.forget(
                    connection, idempotency_keys, before=before, keep_subjects=[EVENT_SUBJECT], limit=_KEYS_AT_ONCE
                )

    async def imbalance(self) -> Mapping[str, int]:
        """Return the sum of all balances per currency; anything but zero is a broken ledger."""
        async with self._engine.connect() as connection:
            return await repository.imbalance(connection)

    async def position(self, feed: str) -> int:
        """Return how far the events of a feed have been consumed."""
        async with self._engine.connect() as connection:
            return await feed_state.position(connection, feed)

    async def move(self, feed: str, move: Move) -> None:
        """Remember how far the events of a feed have been consumed."""
        async with write_transaction(self._engine) as connection:
            await feed_state.move(connection, feed, move)

    async def bury(self, raw: Any, reason: str) -> None:
        """Keep a poison event for operators."""
        async with write_transaction(self._engine) as connection:
            await feed_state.bury(connection, raw, reason, utc_now())


def new_account_number() -> str:
    """Return 14 random digits and two check digits (ISO 7064 MOD 97-10, as in an IBAN)."""
    digits = f"{secrets.randbelow(9 * 10**13) + 10**13}"
    return f"{digits}{98 - int(digits + '00') % 97:02d}"
