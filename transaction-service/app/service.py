"""The rules of transaction-service: events become history once, findings become flags once, and who may see what."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
from pydantic import ValidationError
from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import completeness, extents, fraud, repository, statements
from app.balances import BalanceReader
from app.completeness import LedgerAccount, LedgerState
from app.fraud import Entry, Finding
from app.models import inbox, outbox
from app.projection import Projection, parse, project
from app.prometheus import FLAGS, MISMATCHES
from app.reconciliation import PENDING, Balance, History, compare
from app.repository import Filter
from app.settings import TransactionSettings
from app.statements import Line, Statement
from shared.http import problems
from shared.observability import tracing
from shared.http.auth import Caller, require_operator
from shared.messaging.consumer import Move
from shared.db.database import is_retryable, rehearsal, write_all, write_transaction
from shared.events import CloudEvent, Event, EventData, new_event
from shared.ids import rfc3339, utc_now
from shared.http.problems import Problem
from shared.prometheus.checks import CHECKED
from shared.http.views import transaction_view

log = logging.getLogger(__name__)

FEED = "account-service"
_TRIES = 5
_LISTED_MISMATCHES = 100


@dataclass(frozen=True, slots=True)
class Listing:
    """Some transactions, and whether any of the period may be missing: before `complete_through` none is."""

    items: list[dict[str, Any]]
    complete: bool
    complete_through: datetime | None


class TransactionService:
    """What happened, and what is to be thought of it."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: TransactionSettings,
        balances: BalanceReader,
        committed: Callable[[Sequence[Event]], None] = lambda events: None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._balances = balances
        self._committed = committed

    # Events -----------------------------------------------------------------------------------------------------------

    async def position(self) -> int:
        """Return how far account-service's feed has been consumed."""
        async with self._engine.connect() as connection:
            return await inbox.position(connection, FEED)

    async def apply(self, events: Sequence[CloudEvent], move: Move | None) -> set[str]:
        """Add events to the history and tell what the fraud rules find; return the ids of those that were new.

        Raises ValueError (pydantic.ValidationError too) when one of them is not what its type promises.
        """
        data = {event.id: parse(event) for event in events}
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._apply(events, data, move)
            except DBAPIError as error:
                if attempt == _TRIES or not is_retryable(error):
                    raise
                log.info("%d events conflict with another replica, trying again", len(events))
        raise AssertionError("unreachable")

    async def _apply(
        self, events: Sequence[CloudEvent], data: Mapping[str, EventData | None], move: Move | None
    ) -> set[str]:
        now = utc_now()
        async with write_transaction(self._engine) as connection:
            new = await inbox.claim(connection, data, now)
            items = [item for event_id, item in data.items() if event_id in new and item is not None]
            findings, flagged = await self._record(connection, events, items, now)
            if move is not None:
                await inbox.move(connection, FEED, move)
        self._committed(flagged)
        for finding in findings:
            FLAGS.labels(finding.rule).inc()
        return new

    async def rehearse(self, events: Sequence[CloudEvent]) -> None:
        """Do with events all that `apply` does with new ones, and take it back. Raises what `apply` raises."""
        now = utc_now()
        data = {event.id: parse(event) for event in events}
        async with rehearsal(self._engine) as connection:
            await inbox.claim(connection, data, now)
            await self._record(connection, events, [item for item in data.values() if item is not None], now)

    async def _record(
        self, connection: AsyncConnection, events: Sequence[CloudEvent], items: Sequence[EventData], now: datetime
    ) -> tuple[list[Finding], list[Event]]:
        """Write what events carry, and what the rules find in it for the first time; return that and its events."""
        findings = await self._add(connection, project(items))
        unheard = await repository.add_flags(connection, findings, now)
        findings = [finding for finding in findings if finding.event_id in unheard]
        flagged = _flag_events(findings, events, now)
        await write_all(connection, [outbox.write(flagged, now)])
        return findings, flagged

    async def _add(self, connection: AsyncConnection, projection: Projection) -> list[Finding]:
        """Write the projection and return what the rules find now, whether or not it was found before."""
        new_accounts = await repository.add(connection, projection)
        posted = projection.posted
        if not posted and not new_accounts:
            return []
        await repository.assess_alone(connection)
        # Entries that came before their account have not been assessed yet.
        found = await repository.all_entries(connection, new_accounts)
        if posted:
            affected = {entry["account_id"] for entry in posted} - new_accounts
            found += await self._around(connection, affected, [entry["created_at"] for entry in posted])
        of_account: dict[str, list[Entry]] = defaultdict(list)
        for entry in found:
            of_account[entry.account_id].append(entry)
        with tracing.span("fraud rules"):
            thresholds = self._settings.thresholds
            return [finding for group in of_account.values() for finding in fraud.assess(group, thresholds)]

    async def _around(
        self, connection: AsyncConnection, account_ids: set[str], moments: Sequence[datetime]
    ) -> list[Entry]:
        """Return the entries that those of the given moments may turn into findings, or be turned into one by."""
        thresholds = self._settings.thresholds
        first, last = min(moments), max(moments) + thresholds.window
        recent = await repository.entries_between(connection, account_ids, first, last)
        stretches = {fraud.velocity_occurrence(entry.created_at, thresholds) for entry in recent if entry.is_payment}
        flagged = await repository.flagged_stretches(connection, {entry.account_id for entry in recent}, stretches)
        wanted = fraud.look_back(recent, flagged, thresholds)
        return recent + await repository.entries_before(connection, wanted, first, thresholds)

    async def bury(self, raw: Any, reason: str) -> None:
        """Keep a poison event for operators."""
        async with write_transaction(self._engine) as connection:
            await inbox.bury(connection, raw, reason, utc_now())

    async def forget_history(self) -> None:
        """Clear what can be rebuilt from the feed: the history, and which events made it."""
        async with write_transaction(self._engine) as connection:
            await repository.clear(connection)

    # History ----------------------------------------------------------------------------------------------------------

    async def transactions(self, caller: Caller, wanted: Filter, before: str | None, limit: int) -> Listing:
        """Return the transactions of the caller's accounts (operators: all), the newest first.

        Raises Problem: not-found for somebody else's account, or validation-failed for a period that is empty.
        """
        statements.check_period(wanted.start, wanted.end)
        end = wanted.end or utc_now()
        ledger = await self._ledger_state(wanted)
        async with self._engine.connect() as connection:
            if wanted.account_id is not None and not caller.is_operator:
                await _visible_account(connection, caller, wanted.account_id, ledger)
            through = await _complete_through(connection, wanted, ledger)
            found = await repository.list_transactions(connection, wanted, before, limit)
            items = await _transaction_views(connection, caller, found)
        return Listing(items, through is not None and end <= through, through)

    async def _ledger_state(self, wanted: Filter) -> LedgerState | None:
        """Ask account-service how far the accounts go that are to be listed."""
        if wanted.account_id is not None:
            return await self._balances.account(wanted.account_id)
        return await self._balances.accounts_of(wanted.owner) if wanted.owner is not None else None

    async def transaction(self, caller: Caller, transaction_id: str) -> dict[str, Any]:
        """Return a transaction of one of the caller's accounts (operators: any). Raises Problem (not-found)."""
        async with self._engine.connect() as connection:
            found = await repository.transaction(connection, transaction_id)
            entries = (await repository.entries_of(connection, [found]))[found.id] if found else []
        if found is None or not (caller.is_operator or any(_may_see(caller, entry) for entry in entries)):
            raise Problem("not-found", "There is no such transaction.")
        return _transaction_view(caller, found, entries)

    async def statement(
        self, caller: Caller, account_id: str, start: datetime | None, end: datetime | None
    ) -> Statement:
        """Return a statement, with its first lines, of one of the caller's accounts (operators: any).

        Raises Problem: not-found, or validation-failed for a period that is empty or too long.
        """
        start, end = statements.period(start, end, utc_now())
        ledger = await self._balances.account(account_id)
        async with self._engine.connect() as connection:
            account = await _visible_account(connection, caller, account_id, ledger)
            # First: what it counts is then in all that is read after it.
            extent = (await extents.extents(connection, [account_id]))[account_id]
            opening = await repository.standing(connection, account_id, start)
            closing = max(opening, await repository.standing(connection, account_id, end))
            lines = await repository.lines(connection, account_id, opening.seq, closing.seq)
        watermark = completeness.watermark(extent, account_id, ledger)
        return Statement(account_id, account.currency, start, end, opening, closing, watermark, lines)

    async def more_lines(self, statement: Statement, after: int) -> list[Line]:
        """Return the next lines of a statement, in a transaction of its own."""
        async with self._engine.connect() as connection:
            return await repository.lines(connection, statement.account_id, after, statement.closing.seq)

    async def flags(
        self, caller: Caller, account_id: str | None, after: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return what the fraud rules found, the newest first. Raises Problem (forbidden) unless for an operator."""
        require_operator(caller)
        async with self._engine.connect() as connection:
            found = await repository.list_flags(connection, account_id, after, limit)
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
            for flag in found
        ]

    # Reconciliation ---------------------------------------------------------------------------------------------------

    async def reconciliation(self, caller: Caller) -> dict[str, Any]:
        """Compare all accounts now. Raises Problem: forbidden unless for an operator, or unavailable."""
        require_operator(caller)
        return await self.reconcile()

    async def reconcile(self) -> dict[str, Any]:
        """Compare the history of every account with account-service's balance, and measure the mismatches.

        Raises Problem (unavailable) when account-service does not answer.
        """
        checked = pending = mismatches = 0
        listed: list[dict[str, Any]] = []
        try:
            async for asked_at, balances in self._balances.pages():
                for item in await self._compare(asked_at, balances):
                    checked += 1
                    pending += item["kind"] == PENDING
                    if item["kind"] not in (None, PENDING):
                        mismatches += 1
                        listed.append(item)
                del listed[_LISTED_MISMATCHES:]
        except (httpx.HTTPError, ValidationError) as error:
            log.warning("cannot read account-service's balances: %r", error)
            raise problems.unavailable("account-service does not tell its balances; try again.") from error
        MISMATCHES.set(mismatches)
        CHECKED.labels("reconciliation").set_to_current_time()
        return {
            "checked": checked,
            "mismatches": mismatches,
            "pending": pending,
            "items": listed,
            "checked_at": rfc3339(utc_now()),
        }

    async def _compare(self, asked_at: datetime, balances: Sequence[Balance]) -> list[dict[str, Any]]:
        grace = timedelta(seconds=self._settings.reconciliation_grace_seconds)
        async with self._engine.connect() as connection:
            ours = await extents.histories(connection, [balance.id for balance in balances])
            ahead = {
                balance.id: balance.seq
                for balance in balances
                if balance.id in ours and ours[balance.id].seq > balance.seq
            }
            surpluses = await extents.surpluses(connection, ahead)
        await self._add_checkpoints(ours)
        compared = []
        for balance in balances:
            history = ours.get(balance.id, History())
            compared.append(
                {
                    "account_id": balance.id,
                    "kind": compare(balance, history, surpluses.get(balance.id), asked_at, grace),
                    "seq": history.seq,
                    "account_service_seq": balance.seq,
                    "balance": history.balance,
                    "account_service_balance": balance.balance,
                }
            )
        return compared

    async def _add_checkpoints(self, histories: Mapping[str, History]) -> None:
        """Remember what has been counted; a canary changes nothing."""
        wanted = {id_: found for id_, each in histories.items() if (found := each.next_checkpoint) is not None}
        if not wanted or self._settings.app_track == "canary":
            return
        async with write_transaction(self._engine) as connection:
            # Once more: a rebuild may have begun since.
            here = await extents.extents(connection, list(wanted))
            sound = {id_: each for id_, each in wanted.items() if here[id_].seq >= each.seq}
            await extents.add_checkpoints(connection, sound)


def _flag_events(findings: Iterable[Finding], events: Iterable[CloudEvent], now: datetime) -> list[Event]:
    """Return the events that tell the findings, each in the trace of the transaction it is about."""
    causes = {event.data["transaction_id"]: event for event in events if event.type == "bank.entry.posted"}
    flagged = []
    for finding in findings:
        cause = causes.get(finding.transaction_id)
        flagged.append(
            new_event(
                source="transaction-service",
                type_="bank.transaction.flagged",
                subject=finding.account_id,
                time=now,
                data={
                    "transaction_id": finding.transaction_id,
                    "account_id": finding.account_id,
                    "rule": finding.rule,
                    "score": finding.score,
                    "action": finding.action,
                },
                event_id=finding.event_id,
                traceparent=cause.traceparent if cause else None,
                request_id=cause.requestid if cause else None,
            )
        )
    return flagged


async def _complete_through(connection: AsyncConnection, wanted: Filter, ledger: LedgerState | None) -> datetime | None:
    """Return up to when the history of the accounts to be listed is complete; None where that is not known."""
    if wanted.account_id is not None:
        account_ids = [wanted.account_id]
    elif ledger is not None:
        account_ids = list(ledger.accounts)
    else:
        return None
    reached = await extents.extents(connection, account_ids)
    watermarks = [completeness.watermark(reached[id_], id_, ledger) for id_ in account_ids]
    if not watermarks and ledger is not None:
        return ledger.as_of
    return completeness.complete_through(watermarks)


async def _visible_account(
    connection: AsyncConnection, caller: Caller, account_id: str, ledger: LedgerState | None
) -> Row[Any] | LedgerAccount:
    """Return an account from the history, or from the ledger where its event has not arrived yet."""
    known = await repository.account(connection, account_id)
    account = known if known is not None or ledger is None else ledger.accounts.get(account_id)
    if account is None or not caller.may_see(account.owner):
        raise Problem("not-found", "There is no such account.")
    return account


def _may_see(caller: Caller, entry: Row[Any]) -> bool:
    # The bank's own accounts have no owner here: only operators see those.
    return caller.is_operator or (entry.owner is not None and caller.may_see(entry.owner))


async def _transaction_views(
    connection: AsyncConnection, caller: Caller, found: Sequence[Row[Any]]
) -> list[dict[str, Any]]:
    entries = await repository.entries_of(connection, found) if found else {}
    return [_transaction_view(caller, transaction, entries[transaction.id]) for transaction in found]


def _transaction_view(caller: Caller, transaction: Row[Any], entries: Iterable[Row[Any]]) -> dict[str, Any]:
    # A refused transaction moved nothing, so it has no entries to show.
    visible = [(entry, _may_see(caller, entry)) for entry in entries if entry.seq is not None]
    view = transaction_view(transaction, transaction.status, visible)
    if transaction.code is not None:
        view["code"] = transaction.code
    return view
