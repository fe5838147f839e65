"""Up to when the history of accounts is complete: plain functions on plain data.

An account numbers its entries 1, 2, 3 …, so a history with entries 1 to n misses nothing before n. Only account-service
knows whether entries after n exist: its `seq` is queried first, and the history is read afterwards.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

# Maximum by which the time of an entry may be before that of the previous one: clocks of replicas differ, and a batch
# gets its time before it waits for the account's lock.
CLOCK_MARGIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class GaplessRange:
    """Entries 1 to `seq` of an account are present; `at` is the time of the last one."""

    seq: int = 0
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LedgerAccount:
    """An account in the ledger; `seq` is that of its last entry."""

    id: str
    owner: str
    currency: str
    seq: int


@dataclass(frozen=True, slots=True)
class LedgerState:
    """Accounts in the ledger, and the time just before the query."""

    as_of: datetime
    accounts: Mapping[str, LedgerAccount]


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far an account's history is known to be complete.

    `seq` is the end of the gapless range; `account_seq` is that of the last entry in the ledger, None if unavailable.
    """

    seq: int
    account_seq: int | None
    as_of: datetime | None
    complete_through: datetime | None

    def covers(self, end: datetime) -> bool:
        """Return whether the history before `end` is known to be complete."""
        return self.complete_through is not None and end <= self.complete_through


def watermark(gapless: GaplessRange, account_id: str, ledger: LedgerState | None) -> Watermark:
    """Return the watermark of an account's history."""
    account = ledger.accounts.get(account_id) if ledger else None
    if ledger is None or account is None:
        return Watermark(gapless.seq, None, None, _complete_without_ledger(gapless))
    through = ledger.as_of if gapless.seq >= account.seq else _complete_without_ledger(gapless)
    return Watermark(gapless.seq, account.seq, ledger.as_of, through)


def complete_through(watermarks: Iterable[Watermark]) -> datetime | None:
    """Return up to when all the histories are complete; None if that is unknown for one of them."""
    times = [watermark_.complete_through for watermark_ in watermarks]
    known_times = [time for time in times if time is not None]
    return min(known_times, default=None) if len(known_times) == len(times) else None


def _complete_without_ledger(gapless: GaplessRange) -> datetime | None:
    """Return up to when a history is complete, even if the ledger has entries after its last one."""
    return gapless.at - CLOCK_MARGIN if gapless.at is not None else None
