"""Reconciliation of an account's history with its balance in account-service: a plain function on plain data.

The balance is read first and the history afterwards, so a history that is ahead is normal; one that is behind is a
mismatch only if the missing entry is not recent.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

PENDING = "pending"
# Minimum number of entries between two checkpoints of an account; those after the last checkpoint are read each time.
CHECKPOINT_INTERVAL = 2000


@dataclass(frozen=True, slots=True)
class Balance:
    """The balance of an account in account-service."""

    id: str
    currency: str
    balance: int
    seq: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Entries 1 to `seq` of an account are present and add up to `balance`; `at` is the time of the last one."""

    seq: int = 0
    balance: int = 0
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Totals of an account's history."""

    count: int = 0
    seq: int = 0
    total: int = 0
    balance: int = 0
    gap_since: datetime | None = None
    """Time of the first entry whose predecessor is missing."""
    checkpoint: int = 0
    """`seq` of the last checkpoint."""

    @property
    def next_checkpoint(self) -> Checkpoint | None:
        """The checkpoint to write: enough entries since the last one, and none missing; otherwise None."""
        is_consistent = self.count == self.seq and self.total == self.balance
        return (
            Checkpoint(self.seq, self.balance)
            if is_consistent and self.seq - self.checkpoint >= CHECKPOINT_INTERVAL
            else None
        )


@dataclass(frozen=True, slots=True)
class HistoryAtBalance:
    """A history ahead of account-service's balance: its own balance at that `seq`, and the time of the next entry."""

    balance: int | None
    next_entry_at: datetime | None


def compare(
    account: Balance, history: History, at_balance: HistoryAtBalance | None, requested_at: datetime, grace: timedelta
) -> str | None:
    """Return None if history and balance agree, `pending` if they may soon, otherwise the kind of mismatch.

    `requested_at` is the time before the balance was read; `at_balance` is required if the history is ahead.
    """
    if history.count != history.seq:
        return _pending_or_mismatch("gap", history.gap_since, requested_at, grace)
    if history.total != history.balance:
        return "sum"
    if history.seq < account.seq:
        return _pending_or_mismatch("missing-entries", account.updated_at, requested_at, grace)
    if at_balance is None:
        return None if history.balance == account.balance else "balance"
    if (at_balance.balance if account.seq else 0) != account.balance:
        return "balance"
    # Entries posted well before the balance was read should be included in it.
    return (
        "local-ahead"
        if at_balance.next_entry_at is not None and requested_at - at_balance.next_entry_at > grace
        else None
    )


def _pending_or_mismatch(kind: str, since: datetime | None, requested_at: datetime, grace: timedelta) -> str:
    """Return `pending` while the missing entries may still arrive."""
    return PENDING if since is None or requested_at - since <= grace else kind
