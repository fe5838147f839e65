"""Faults in what requests and events do: wrong decisions, entries, events and answers.

Each affects the service that has the module it changes: account-service has the ledger, both have a consumer.
"""

import importlib
import importlib.util
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import Patch
from .requests import InjectedError


def _has_ledger() -> bool:
    return importlib.util.find_spec("app.ledger") is not None


def consumer(patch: Patch) -> None:
    """Fail every consumed event."""
    module = importlib.import_module("app.consumer")
    handler = module.FlagHandler if _has_ledger() else module.HistoryHandler

    async def fail(_self: Any, _events: Any, _offset_commit: Any = None) -> None:
        raise InjectedError

    patch(handler, "process", fail)
    patch(handler, "dry_run", fail)


def double_post(patch: Patch) -> None:
    """Write every entry twice."""

    def twice(write: Any) -> Any:
        if write.table.name != "entries":
            return write
        # account_id, seq, transaction_id, amount, balance_after
        again = [(row[0], row[1] + 1, row[2], row[3], row[4] + row[3]) for row in write.rows]
        return replace(write, rows=[*write.rows, *again])

    if _has_ledger():
        repository = importlib.import_module("app.storage.repository")
        writes_for = repository.writes_for
        patch(repository, "writes_for", lambda *given: [twice(write) for write in writes_for(*given)])


def refused(patch: Patch) -> None:
    """Refuse every other debit, as with funds counted wrongly."""
    if not _has_ledger():
        return
    posting = importlib.import_module("app.decisions.posting")
    check_debit = posting.check_debit
    funds = itertools.cycle((1, 0))

    def check(account: Any, amount: int, spendable: int, **options: Any) -> Any:
        return check_debit(account, amount, spendable * next(funds), **options)

    patch(posting, "check_debit", check)


def wrong_balance(patch: Patch) -> None:
    """Show a balance that is one minor unit too high."""
    if not _has_ledger():
        return
    account_data = importlib.import_module("app.domain.model").account_data

    def shown(account: Any) -> dict[str, Any]:
        return {**account_data(account), "balance": account.balance + 1}

    for name in ("app.api", "app.application.queries", "app.application.responses"):
        patch(importlib.import_module(name), "account_data", shown)


def _change_events(patch: Patch, change: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> None:
    """Replace each event of an entry when the outbox is written."""
    if not _has_ledger():
        return
    outbox = importlib.import_module("app.models").outbox
    write = outbox.write

    def changed(events: Any, now: Any) -> Any:
        kept = [change(event) if event["type"] == "bank.entry.posted" else [event] for event in events]
        return write(list(itertools.chain(*kept)), now)

    patch(outbox, "write", changed)


def no_events(patch: Patch) -> None:
    """Publish no event of a posted transaction."""
    _change_events(patch, lambda event: [])


def no_history(patch: Patch) -> None:
    """Acknowledge consumed events without writing them to the history."""
    if _has_ledger():
        return

    async def skip(_connection: Any, _projection: Any) -> set[str]:
        return set()

    patch(importlib.import_module("app.storage.history"), "add", skip)


def wrong_amount(patch: Patch) -> None:
    """Publish amounts that are one minor unit too high."""
    _change_events(patch, lambda event: [{**event, "data": {**event["data"], "amount": event["data"]["amount"] + 1}}])
