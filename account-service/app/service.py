"""The rules of account-service: what a request may do, one effect per key, and batches that commit as one."""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import repository
from app.book import (
    Account,
    Book,
    Command,
    Fact,
    HoldIs,
    Outcome,
    Posted,
    Refused,
    ReleaseHold,
    account_data,
)
from app.ledger import decide
from app.models import feed_state, idempotency_keys, outbox
from app.prometheus import AMOUNT, BATCH_SIZE, TRANSACTIONS, VIOLATIONS
from app.settings import AccountSettings
from app.views import view_of
from shared import idempotency, problems, tracing
from shared.auth import OPERATOR, Caller
from shared.consumer import Move
from shared.database import is_retryable, is_unavailable, rehearsal, write_all, write_transaction
from shared.events import Event, new_event
from shared.group_commit import Closed, GroupCommit, QueueFull
from shared.idempotency import StoredResponse
from shared.ids import rfc3339, utc_now
from shared.problems import Problem

log = logging.getLogger(__name__)

# Acts for the bank itself: releases holds, freezes on a fraud event.
SYSTEM = Caller("bank", frozenset({OPERATOR}))
# Keys of events belong to nobody's token, and are kept for ever: a rebuilt history tells old findings again, which must
# not freeze again.
EVENT_SUBJECT = ""
_FLUSH_TRIES = 5
# Each piece is forgotten well within the time that a statement may take.
_KEYS_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a request comes from, carried into its events and problems."""

    path: str
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Transfers that are decided one by one and committed together."""

    items: tuple["Work", ...]


@dataclass(frozen=True, slots=True)
class Work:
    """One request to the ledger; without a key it is naturally idempotent and its answer is not kept."""

    caller: Caller
    command: Command | Batch
    status: int
    trace: Trace
    key: tuple[str, str] | None = None
    request_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request: an HTTP status and a JSON body."""

    status: int
    body: bytes
    replayed: bool = False


@dataclass(slots=True)
class _Flush:
    """What one flush knows and produces."""

    book: Book
    known: dict[tuple[str, str], StoredResponse]
    now: datetime
    stored: list[StoredResponse] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


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
        self._running: set[tuple[str, str]] = set()
        self._group: GroupCommit[Work, Answer] = GroupCommit(
            self._flush,
            divisible=lambda error: not is_unavailable(error),
            size=_transfers_in,
            max_batch=settings.group_commit_max_batch,
            max_waiting=settings.group_commit_max_waiting,
            on_batch=BATCH_SIZE.observe,
        )

    async def execute(self, work: Work) -> Answer:
        """Return the answer once it is durable; a repeated key gets the stored one.

        Raises Problem: request-in-progress while this process works on the same key, idempotency-key-reused, or
        unavailable when too much waits already or the service is stopping.
        """
        if work.key is not None:
            if work.key in self._running:
                raise Problem(
                    "request-in-progress",
                    "The first request with this key is still running; ask again for its result.",
                    headers={"Retry-After": "1"},
                )
            self._running.add(work.key)
        try:
            with tracing.span("group commit", [work.trace.traceparent]):
                return await self._group.submit(work)
        except QueueFull as error:
            raise problems.unavailable("Too many requests are waiting; retry with the same key.") from error
        except Closed as error:
            raise problems.unavailable("This replica is stopping; retry with the same key.") from error
        finally:
            if work.key is not None:
                self._running.discard(work.key)

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
        works = list(_flatten(batch))
        cash = await self._cash_for(
            {currency for work in works if (currency := getattr(work.command, "currency", None))}, now
        )
        async with write_transaction(self._engine) as connection:
            flush, answers = await _write(connection, batch, works, cash, now)
        self._committed(flush.events)
        _count(flush.outcomes)
        if self._settings.access_log:
            requests = [work.trace.request_id for work in batch]
            traces = tracing.sampled_ids(work.trace.traceparent for work in batch)
            log.info("committed", extra={"requests": len(batch), "request_ids": requests, "trace_ids": traces})
        return answers

    async def rehearse(self, batch: Sequence[Work]) -> None:
        """Do all that a flush does with work that needs no cash account, and take it back. Raises what it raises."""
        async with rehearsal(self._engine) as connection:
            await _write(connection, batch, batch, {}, utc_now())

    async def _cash_for(self, currencies: set[str], now: datetime) -> dict[str, str]:
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


async def _write(
    connection: AsyncConnection, batch: Sequence[Work], works: Sequence[Work], cash: Mapping[str, str], now: datetime
) -> tuple[_Flush, list[Answer]]:
    """Decide a batch and write what follows; `works` has the items of batches inside it as well."""
    keys = [work.key for work in works if work.key is not None]
    known = await idempotency.find(connection, idempotency_keys, keys) if keys else {}
    commands = [work.command for work in works if not isinstance(work.command, Batch) and work.key not in known]
    book = await repository.load_book(connection, commands, cash)
    flush = _Flush(book, known, now)
    answers = [_settle(flush, work) for work in batch]
    await write_all(
        connection,
        [
            *repository.writes_of(book, now),
            outbox.write(flush.events, now),
            idempotency.write(idempotency_keys, flush.stored),
        ],
    )
    return flush, answers


def new_account_number() -> str:
    """Return 14 random digits and two check digits (ISO 7064 MOD 97-10, as in an IBAN)."""
    digits = f"{secrets.randbelow(9 * 10**13) + 10**13}"
    return f"{digits}{98 - int(digits + '00') % 97:02d}"


def _flatten(batch: Iterable[Work]) -> Iterable[Work]:
    for work in batch:
        yield work
        if isinstance(work.command, Batch):
            yield from work.command.items


def _transfers_in(work: Work) -> int:
    return len(work.command.items) if isinstance(work.command, Batch) else 1


def _settle(flush: _Flush, work: Work) -> Answer:
    """Decide one request, or find its stored answer; called in the order of arrival."""
    if work.key is not None and (stored := flush.known.get(work.key)) is not None:
        if stored.request_hash == work.request_hash:
            return Answer(stored.status, stored.body, replayed=True)
        problem = idempotency.reused(work.key[1])
        return Answer(problem.status, _problem_body(problem, work.trace))
    if isinstance(work.command, Batch):
        if work.key is not None and any(item.key == work.key for item in work.command.items):
            problem = idempotency.reused(work.key[1])
            return Answer(problem.status, _problem_body(problem, work.trace))
        results = [_batch_result(item, _settle(flush, item)) for item in work.command.items]
        answer = Answer(work.status, b'{"results":[' + b",".join(results) + b"]}")
    else:
        answer = _decide(flush, work, work.command)
    if work.key is not None:
        subject, key = work.key
        stored = StoredResponse(subject, key, work.request_hash, answer.status, answer.body, flush.now)
        flush.known[work.key] = stored
        flush.stored.append(stored)
    return answer


def _decide(flush: _Flush, work: Work, command: Command) -> Answer:
    outcome = decide(flush.book, command, work.caller, flush.now)
    flush.outcomes.append(outcome)
    flush.events.extend(_event(fact, flush.now, work.trace) for fact in flush.book.facts)
    flush.book.facts.clear()
    if isinstance(outcome, Refused):
        problem = Problem(outcome.code, outcome.detail)
        return Answer(problem.status, _problem_body(problem, work.trace))
    return Answer(work.status, orjson.dumps(view_of(outcome, flush.book, work.caller)))


def _problem_body(problem: Problem, trace: Trace) -> bytes:
    return orjson.dumps(problems.document(problem, trace.path, trace.request_id or ""))


def _event(fact: Fact, now: datetime, trace: Trace) -> Event:
    return new_event(
        source="account-service",
        type_=fact.type,
        subject=fact.account_id,
        time=now,
        data=fact.data,
        traceparent=trace.traceparent,
        request_id=trace.request_id,
    )


def _batch_result(item: Work, answer: Answer) -> bytes:
    _, key = item.key or ("", "")
    head = orjson.dumps({"key": key, "status": answer.status, "replayed": answer.replayed})
    kind = b"transaction" if answer.status == item.status else b"problem"
    return head[:-1] + b',"' + kind + b'":' + answer.body + b"}"


def _count(outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        posted = outcome.captured if isinstance(outcome, HoldIs) else outcome
        if isinstance(posted, Posted):
            transaction = posted.transaction
            TRANSACTIONS.labels(transaction.type, "posted", transaction.currency).inc()
            AMOUNT.labels(transaction.type, transaction.currency).inc(transaction.amount)
        elif isinstance(outcome, Refused) and outcome.movement is not None:
            TRANSACTIONS.labels(outcome.movement.type, "refused", outcome.movement.currency).inc()
