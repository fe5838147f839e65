"""How far the history of accounts is known to be complete: plain functions on plain data.

An account numbers its entries 1, 2, 3 …, so a history that has 1 to n lacks nothing before n. Only account-service
knows whether it lacks anything after n: it is asked for the account's `seq`, and then the history is read.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

# Times may run backwards from one entry of an account to the next by as much: replicas have clocks of their own, and a
# batch gets its time before it waits for the account.
CLOCK_MARGIN = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Extent:
    """The entries 1 to `seq` of an account are here; `at` is the time of the last of them."""

    seq: int = 0
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LedgerAccount:
    """An account as account-service has it; `seq` is that of its last entry."""

    id: str
    owner: str
    currency: str
    seq: int


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What account-service answered, and the time just before it was asked."""

    as_of: datetime
    accounts: Mapping[str, LedgerAccount]


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far the history of an account goes, and how far it should: None where account-service did not answer."""

    seq: int
    account_seq: int | None
    as_of: datetime | None
    complete_through: datetime | None

    def covers(self, end: datetime) -> bool:
        """Tell whether everything before `end` is known to be here."""
        return self.complete_through is not None and end <= self.complete_through


def watermark(extent: Extent, account_id: str, ledger: LedgerState | None) -> Watermark:
    """Return how far the history of an account is complete."""
    account = ledger.accounts.get(account_id) if ledger else None
    if ledger is None or account is None:
        return Watermark(extent.seq, None, None, _by_itself(extent))
    through = ledger.as_of if extent.seq >= account.seq else _by_itself(extent)
    return Watermark(extent.seq, account.seq, ledger.as_of, through)


def complete_through(watermarks: Iterable[Watermark]) -> datetime | None:
    """Return up to when the histories of all these accounts are complete; None where that is not known of one."""
    times = [each.complete_through for each in watermarks]
    return min((time for time in times if time is not None), default=None) if None not in times else None


def _by_itself(extent: Extent) -> datetime | None:
    """Return up to when an account's history is complete, whatever comes after its last entry."""
    return extent.at - CLOCK_MARGIN if extent.at is not None else None
