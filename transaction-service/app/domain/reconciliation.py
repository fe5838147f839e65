"""Reconciliation: does the history of an account end in the balance that account-service has?

A plain function on plain data. What account-service says is read first and the history later, so a history that goes
further is nothing to wonder about; one that lags behind is so only when the missing entry is not a recent one.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

PENDING = "pending"
# Entries between two checkpoints of an account, at least: what is counted again whenever its history is read.
STRIDE = 2000


@dataclass(frozen=True, slots=True)
class Balance:
    """An account as account-service has it."""

    id: str
    currency: str
    balance: int
    seq: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Entries 1 to `seq` of an account are all here and add up to `balance`; `at` is the time of the last of them."""

    seq: int = 0
    balance: int = 0
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What the entries of an account say."""

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
        """The checkpoint to write where enough entries have come since the last one, and none is missing."""
        is_sound = self.count == self.seq and self.total == self.balance
        return Checkpoint(self.seq, self.balance) if is_sound and self.seq - self.checkpoint >= STRIDE else None


@dataclass(frozen=True, slots=True)
class Surplus:
    """Where the history goes further than the balance: its balance at that very entry, and the time of the next."""

    balance_there: int | None
    next_at: datetime | None


def compare(
    theirs: Balance, ours: History, surplus: Surplus | None, asked_at: datetime, grace: timedelta
) -> str | None:
    """Return None where history and balance agree, `pending` where they will soon, else what is wrong.

    `asked_at` is the time before account-service was asked; `surplus` is needed where our seq is above theirs.
    """
    if ours.count != ours.seq:
        return _late_or("gap", ours.gap_since, asked_at, grace)
    if ours.total != ours.balance:
        return "sum"
    if ours.seq < theirs.seq:
        return _late_or("missing-entries", theirs.updated_at, asked_at, grace)
    if surplus is None:
        return None if ours.balance == theirs.balance else "balance"
    if (surplus.balance_there if theirs.seq else 0) != theirs.balance:
        return "balance"
    # What was posted well before account-service was asked should have been in its answer.
    return "local-ahead" if surplus.next_at is not None and asked_at - surplus.next_at > grace else None


def _late_or(kind: str, since: datetime | None, asked_at: datetime, grace: timedelta) -> str:
    """Return `pending` for what may still be on its way."""
    return PENDING if since is None or asked_at - since <= grace else kind
