"""One flush of the group commit: a batch of requests in one database transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from app.application import audit, responses, stored_responses
from app.application.requests import LedgerRequest, LedgerResponse, TransferBatch, flatten
from app.domain.audit import Actor, AuditEntry
from app.domain.commands import Command, References, Refusal, Result
from app.domain.events import DomainEvent
from app.domain.unit_of_work import UnitOfWork
from app.ledger import decide
from app.models import idempotency_keys, outbox
from app.storage import audit_log, repository
from shared.http import idempotency
from shared.db.database import write_all
from shared.events import Event, new_event
from shared.http.idempotency import StoredResponse
from shared.http.problems import Problem

# Upper bound of the clock skew between replicas plus the time that they wait for a lock.
_MAX_CLOCK_SKEW = timedelta(seconds=20)


@dataclass(slots=True)
class Flush:
    """The state of one flush: what it has loaded and decided, and what it will write."""

    unit: UnitOfWork
    # Responses by key: those found in the database, and those of this batch.
    responses: dict[tuple[str, str], StoredResponse]
    now: datetime
    new_responses: list[StoredResponse] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    # Each with the client bucket of its request.
    results: list[tuple[Result, str | None]] = field(default_factory=list)
    audit_entries: list[AuditEntry] = field(default_factory=list)
    # The actor of each of the unit's transactions.
    posted_by: list[Actor] = field(default_factory=list)

    @property
    def appended(self) -> tuple[list[Any], ...]:
        """The lists that each operation appends to."""
        return self.new_responses, self.events, self.results, self.audit_entries, self.posted_by


async def execute(
    connection: AsyncConnection, requests: Sequence[LedgerRequest], cash_accounts: Mapping[str, str], now: datetime
) -> tuple[Flush, list[LedgerResponse]]:
    """Load what the requests refer to, decide them in order and write the changes."""
    operations = list(flatten(requests))
    keys = [operation.key for operation in operations if operation.key is not None]
    known = await idempotency.find(connection, idempotency_keys, keys) if keys else {}
    commands = [
        operation.command
        for operation in operations
        if not isinstance(operation.command, TransferBatch) and operation.key not in known
    ]
    unit = await repository.load_unit_of_work(connection, commands, cash_accounts)
    now = _monotonic_time(unit.last_change, now)
    flush = Flush(unit, known, now)
    ledger_responses = [_execute_request(flush, request) for request in requests]
    await write_all(
        connection,
        [
            *repository.writes_for(unit, flush.posted_by, now),
            audit_log.write(flush.audit_entries),
            outbox.write(flush.events, now),
            idempotency.write(idempotency_keys, flush.new_responses),
        ],
    )
    return flush, ledger_responses


def _monotonic_time(last_change: datetime | None, now: datetime) -> datetime:
    """Return the time of the batch: the current time, or that of the accounts' last change if the clock is behind it.

    So the times of an account's entries do not decrease, although clocks differ and replicas wait for locks after
    reading them. A last change far ahead is ignored: it comes from a replica with a wrong clock.
    """
    if last_change is not None and now < last_change <= now + _MAX_CLOCK_SKEW:
        return last_change
    return now


def _execute_request(
    flush: Flush, request: LedgerRequest, transfer_batch_request_id: str | None = None
) -> LedgerResponse:
    """Return the stored response of a request, or decide it; called in the order of arrival.

    `transfer_batch_request_id` is the request id of the transfer batch that the request is part of.
    """
    if request.key is not None and (stored := flush.responses.get(request.key)) is not None:
        return stored_responses.replay(stored, request.request_hash, request.context)
    if isinstance(request.command, TransferBatch):
        if request.key is not None and any(item.key == request.key for item in request.command.items):
            return responses.problem_response(idempotency.reused(request.key[1]), request.context)
        request_id = request.context.request_id or ""
        execute_items = _execute_all_or_none if request.command.atomic else _execute_each
        items = execute_items(flush, request.command.items, request_id)
        response = LedgerResponse(request.success_status, responses.transfer_batch_body(items))
        stored_body = stored_responses.compact_transfer_batch(items, request_id)
    else:
        response = _decide(flush, request, request.command)
        stored_body = response.body
        if response.status >= 400:
            stored_body = stored_responses.compact_problem(response.body, transfer_batch_request_id)
    if request.key is not None:
        subject, key = request.key
        stored = StoredResponse(subject, key, request.request_hash, response.status, stored_body, flush.now)
        flush.responses[request.key] = stored
        flush.new_responses.append(stored)
    return response


def _execute_each(flush: Flush, items: Sequence[LedgerRequest], request_id: str) -> responses.ItemResponses:
    return [(item, _execute_request(flush, item, request_id)) for item in items]


def _execute_all_or_none(flush: Flush, items: Sequence[LedgerRequest], request_id: str) -> responses.ItemResponses:
    """Execute transfers, or undo them all after the first refusal; their keys remain unused then."""
    commands = (item.command for item in items if not isinstance(item.command, TransferBatch))
    account_ids = References.union(command.references for command in commands).accounts
    savepoint, counts = flush.unit.savepoint(account_ids), [len(changes) for changes in flush.appended]
    executed: list[tuple[LedgerRequest, LedgerResponse]] = []
    for refused in items:
        events, results = len(flush.events), len(flush.results)
        response = _execute_request(flush, refused, request_id)
        if responses.succeeded(refused, response):
            executed.append((refused, response))
            continue
        # The refused transfer is counted and published, as others are.
        refused_events, refused_results = flush.events[events:], flush.results[results:]
        flush.unit.roll_back(savepoint)
        for stored in flush.new_responses[counts[0] :]:
            del flush.responses[stored.subject, stored.key]
        for changes, count in zip(flush.appended, counts, strict=True):
            del changes[count:]
        flush.events += refused_events
        flush.results += refused_results
        not_executed = Problem("batch-refused", "Another transfer of the batch was refused; none was executed.")
        return [
            (item, response if item is refused else responses.problem_response(not_executed, item.context))
            for item in items
        ]
    return executed


def _decide(flush: Flush, request: LedgerRequest, command: Command) -> LedgerResponse:
    unit = flush.unit
    result = decide(unit, command, request.caller, flush.now)
    flush.results.append((result, request.context.client_bucket))
    if unit.events and not isinstance(result, Refusal):
        _record_actor(flush, request, command, result)
    flush.events.extend(_event(event, flush.now, request) for event in unit.events)
    unit.events.clear()
    return responses.result_response(result, request, unit)


def _record_actor(flush: Flush, request: LedgerRequest, command: Command, result: Result) -> None:
    """Record the actor of the command that has just been executed."""
    actor = audit.actor_of(request)
    flush.posted_by += [actor] * (len(flush.unit.transactions) - len(flush.posted_by))
    if (entry := audit.entry_for(request, command, result, actor, flush.now)) is not None:
        flush.audit_entries.append(entry)


def _event(event: DomainEvent, now: datetime, request: LedgerRequest) -> Event:
    return new_event(
        source="account-service",
        type_=event.type,
        subject=event.account_id,
        time=now,
        data=event.data,
        traceparent=request.context.traceparent,
        request_id=request.context.request_id,
        actor=request.caller.subject,
    )
