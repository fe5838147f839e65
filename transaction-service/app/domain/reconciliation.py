"""Reconciliation of an account's history with its balance in account-service: a plain function on plain data.

The balance is read first and the history afterwards, so a history that is ahead is normal; one that is behind is a
mismatch only if the missing entry is not recent.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

PENDING = "pending"
# Minimum number of entries between two checkpoints of an account: those after the last one are counted on each read.
STRIDE = 2000


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
        return Checkpoint(self.seq, self.balance) if is_consistent and self.seq - self.checkpoint >= STRIDE else None


@dataclass(frozen=True, slots=True)
class AheadOfBalance:
    """A history ahead of the balance: its balance at the balance's `seq`, and the time of the next entry."""

    balance_there: int | None
    next_at: datetime | None


def compare(
    theirs: Balance, ours: History, surplus: AheadOfBalance | None, asked_at: datetime, grace: timedelta
) -> str | None:
    """Return None if history and balance agree, `pending` if they may soon, otherwise the kind of mismatch.

    `asked_at` is the time before the balance was read; `surplus` is required if the history is ahead.
    """
    if ours.count != ours.seq:
        return _pending_or("gap", ours.gap_since, asked_at, grace)
    if ours.total != ours.balance:
        return "sum"
    if ours.seq < theirs.seq:
        return _pending_or("missing-entries", theirs.updated_at, asked_at, grace)
    if surplus is None:
        return None if ours.balance == theirs.balance else "balance"
    if (surplus.balance_there if theirs.seq else 0) != theirs.balance:
        return "balance"
    # Entries posted well before the balance was read should be included in it.
    return "local-ahead" if surplus.next_at is not None and asked_at - surplus.next_at > grace else None


def _pending_or(kind: str, since: datetime | None, asked_at: datetime, grace: timedelta) -> str:
    """Return `pending` while the missing entries may still arrive."""
    return PENDING if since is None or asked_at - since <= grace else kind
