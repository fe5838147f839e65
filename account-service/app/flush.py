"""One flush of the group commit: stored answers, decisions, and all that they write, in one database transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from app import audit, audit_repository, refusals, repository
from app.audit import Actor, AuditEntry
from app.book import Book, Command, Fact, HoldIs, Outcome, Posted, Refused
from app.ledger import decide
from app.models import idempotency_keys, outbox
from app.prometheus import AMOUNT, TRANSACTIONS
from app.views import view_of
from app.work import Answer, Batch, Trace, Work
from shared.http import idempotency, problems
from shared.db.database import write_all
from shared.events import Event, new_event
from shared.http.idempotency import StoredResponse
from shared.http.problems import Problem


@dataclass(slots=True)
class Flush:
    """What one flush knows and produces."""

    book: Book
    known: dict[tuple[str, str], StoredResponse]
    now: datetime
    stored: list[StoredResponse] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    audited: list[AuditEntry] = field(default_factory=list)
    # Who posted each transaction of the book.
    posted_by: list[Actor] = field(default_factory=list)


async def write(
    connection: AsyncConnection, batch: Sequence[Work], works: Sequence[Work], cash: Mapping[str, str], now: datetime
) -> tuple[Flush, list[Answer]]:
    """Decide a batch and write what follows; `works` has the items of batches inside it as well."""
    keys = [work.key for work in works if work.key is not None]
    known = await idempotency.find(connection, idempotency_keys, keys) if keys else {}
    commands = [work.command for work in works if not isinstance(work.command, Batch) and work.key not in known]
    book = await repository.load_book(connection, commands, cash)
    flush = Flush(book, known, now)
    answers = [_settle(flush, work) for work in batch]
    await write_all(
        connection,
        [
            *repository.writes_of(book, flush.posted_by, now),
            audit_repository.write(flush.audited),
            outbox.write(flush.events, now),
            idempotency.write(idempotency_keys, flush.stored),
        ],
    )
    return flush, answers


def _settle(flush: Flush, work: Work, batch_id: str | None = None) -> Answer:
    """Decide one request, or find its stored answer; called in the order of arrival.

    `batch_id` is the request id of the batch that the request is an item of.
    """
    if work.key is not None and (stored := flush.known.get(work.key)) is not None:
        return replay(stored, work.request_hash, work.trace)
    if isinstance(work.command, Batch):
        if work.key is not None and any(item.key == work.key for item in work.command.items):
            problem = idempotency.reused(work.key[1])
            return Answer(problem.status, _problem_body(problem, work.trace))
        request_id = work.trace.request_id or ""
        results = [(item, _settle(flush, item, request_id)) for item in work.command.items]
        answer = Answer(work.status, refusals.batch_body(results))
        kept = refusals.compact_batch(results, request_id)
    else:
        answer = _decide(flush, work, work.command)
        kept = answer.body if answer.status < 400 else refusals.compact(answer.body, batch_id)
    if work.key is not None:
        subject, key = work.key
        stored = StoredResponse(subject, key, work.request_hash, answer.status, kept, flush.now)
        flush.known[work.key] = stored
        flush.stored.append(stored)
    return answer


def replay(stored: StoredResponse, request_hash: bytes, trace: Trace) -> Answer:
    """Return the stored answer to a repeated request, or a refusal for another request with its key."""
    if stored.request_hash == request_hash:
        return Answer(stored.status, refusals.restore(stored.status, stored.body, trace), replayed=True)
    problem = idempotency.reused(stored.key)
    return Answer(problem.status, _problem_body(problem, trace))


def _decide(flush: Flush, work: Work, command: Command) -> Answer:
    outcome = decide(flush.book, command, work.caller, flush.now)
    flush.outcomes.append(outcome)
    if flush.book.facts and not isinstance(outcome, Refused):
        _record(flush, work, command, outcome)
    flush.events.extend(_event(fact, flush.now, work) for fact in flush.book.facts)
    flush.book.facts.clear()
    if isinstance(outcome, Refused):
        problem = Problem(outcome.code, outcome.detail)
        return Answer(problem.status, _problem_body(problem, work.trace))
    return Answer(work.status, orjson.dumps(view_of(outcome, flush.book, work.caller)))


def _problem_body(problem: Problem, trace: Trace) -> bytes:
    return orjson.dumps(problems.document(problem, trace.path, trace.request_id or ""))


def _record(flush: Flush, work: Work, command: Command, outcome: Outcome) -> None:
    """Record who made the change that is in the book now."""
    actor = audit.actor_of(work)
    if len(flush.posted_by) < len(flush.book.transactions):
        flush.posted_by.append(actor)
    if (entry := audit.entry_of(work, command, outcome, actor, flush.now)) is not None:
        flush.audited.append(entry)


def _event(fact: Fact, now: datetime, work: Work) -> Event:
    return new_event(
        source="account-service",
        type_=fact.type,
        subject=fact.account_id,
        time=now,
        data=fact.data,
        traceparent=work.trace.traceparent,
        request_id=work.trace.request_id,
        actor=work.caller.subject,
    )


def count(outcomes: Iterable[Outcome]) -> None:
    """Count in the metrics what was posted and refused."""
    for outcome in outcomes:
        posted = outcome.captured if isinstance(outcome, HoldIs) else outcome
        if isinstance(posted, Posted):
            transaction = posted.transaction
            TRANSACTIONS.labels(transaction.type, "posted", transaction.currency).inc()
            AMOUNT.labels(transaction.type, transaction.currency).inc(transaction.amount)
        elif isinstance(outcome, Refused) and outcome.movement is not None:
            TRANSACTIONS.labels(outcome.movement.type, "refused", outcome.movement.currency).inc()
