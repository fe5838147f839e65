"""Reconciles the history of every account with account-service's balances, and writes checkpoints."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.domain.reconciliation import PENDING, Balance, History, compare
from app.ledger_client import LedgerClient
from app.prometheus import MISMATCHES
from app.settings import TransactionSettings
from app.storage import ranges
from shared.http import problems
from shared.db.database import reader, write_transaction
from shared.ids import rfc3339, utc_now
from shared.prometheus.checks import CHECKED

log = logging.getLogger(__name__)

_MAX_LISTED_MISMATCHES = 100


class Reconciler:
    """Reconciles the history with the ledger, page by page."""

    def __init__(self, engine: AsyncEngine, settings: TransactionSettings, ledger: LedgerClient) -> None:
        self._engine = engine
        self._settings = settings
        self._ledger = ledger

    async def reconcile(self) -> dict[str, Any]:
        """Compare the history of every account with account-service's balance, and export the number of mismatches.

        Raises Problem (unavailable) if account-service is unavailable.
        """
        checked = pending = mismatches = 0
        listed: list[dict[str, Any]] = []
        try:
            async for requested_at, balances in self._ledger.balances():
                for item in await self._compare(requested_at, balances):
                    checked += 1
                    pending += item["kind"] == PENDING
                    if item["kind"] not in (None, PENDING):
                        mismatches += 1
                        listed.append(item)
                del listed[_MAX_LISTED_MISMATCHES:]
        except (httpx.HTTPError, ValidationError) as error:
            log.warning("cannot read account-service's balances: %r", error)
            raise problems.unavailable("Balances of account-service are not available; try again.") from error
        MISMATCHES.set(mismatches)
        CHECKED.labels("reconciliation").set_to_current_time()
        return {
            "checked": checked,
            "mismatches": mismatches,
            "pending": pending,
            "items": listed,
            "checked_at": rfc3339(utc_now()),
        }

    async def _compare(self, requested_at: datetime, balances: Sequence[Balance]) -> list[dict[str, Any]]:
        grace = timedelta(seconds=self._settings.reconciliation_grace_seconds)
        async with reader(self._engine).connect() as connection:
            histories = await ranges.account_histories(connection, [balance.id for balance in balances])
            ahead = {
                balance.id: balance.seq
                for balance in balances
                if balance.id in histories and histories[balance.id].seq > balance.seq
            }
            at_balances = await ranges.histories_at(connection, ahead)
        await self._add_checkpoints(histories)
        compared = []
        for balance in balances:
            history = histories.get(balance.id, History())
            compared.append(
                {
                    "account_id": balance.id,
                    "kind": compare(balance, history, at_balances.get(balance.id), requested_at, grace),
                    "seq": history.seq,
                    "account_service_seq": balance.seq,
                    "balance": history.balance,
                    "account_service_balance": balance.balance,
                }
            )
        return compared

    async def _add_checkpoints(self, account_histories: Mapping[str, History]) -> None:
        """Write checkpoints; a canary writes none."""
        next_checkpoints = {id_: history.next_checkpoint for id_, history in account_histories.items()}
        due = {id_: checkpoint for id_, checkpoint in next_checkpoints.items() if checkpoint is not None}
        if not due or self._settings.app_track == "canary":
            return
        async with write_transaction(self._engine) as connection:
            # Read again: a rebuild may have started meanwhile.
            current = await ranges.gapless_ranges(connection, list(due))
            confirmed = {id_: checkpoint for id_, checkpoint in due.items() if current[id_].seq >= checkpoint.seq}
            await ranges.add_checkpoints(connection, confirmed)
