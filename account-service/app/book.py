"""The ledger's plain data: accounts, transactions, commands, outcomes, and the book that a batch works on."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shared.ids import rfc3339

# A database bigint holds twice as much, so that sums of two balances do not overflow.
MAX_BALANCE = 4 * 10**18


@dataclass(slots=True)
class Account:
    """An account; amounts are integers in minor units of its currency."""

    id: str
    account_number: str
    owner: str
    name: str | None
    kind: str
    currency: str
    status: str
    balance: int
    held: int
    seq: int
    created_at: datetime

    @property
    def available(self) -> int:
        """What can be spent: the balance less what is reserved by holds."""
        return self.balance - self.held


@dataclass(frozen=True, slots=True)
class Transaction:
    """A posted movement of money between two accounts."""

    id: str
    type: str
    amount: int
    currency: str
    from_account: str
    to_account: str
    reference: str | None
    reverses: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a transaction; `seq` numbers the entries of an account without gaps."""

    account_id: str
    seq: int
    transaction_id: str
    amount: int
    balance_after: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Money reserved for a later capture."""

    id: str
    account_id: str
    amount: int
    captured_amount: int
    currency: str
    status: str
    expires_at: datetime
    transaction_id: str | None
    created_at: datetime
    placed_by: str | None = None


@dataclass(frozen=True, slots=True)
class OpenAccount:
    """Open an account for the caller."""

    id: str
    account_number: str
    currency: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Deposit:
    """Bring money in from outside."""

    id: str
    account_id: str
    amount: int
    currency: str
    reference: str | None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Pay money out."""

    id: str
    account_id: str
    amount: int
    currency: str
    reference: str | None


@dataclass(frozen=True, slots=True)
class Transfer:
    """Move money from one account to another."""

    id: str
    from_account: str
    to_account: str
    amount: int
    currency: str
    reference: str | None


@dataclass(frozen=True, slots=True)
class Reverse:
    """Correct a posted transaction by its opposite."""

    id: str
    transaction_id: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """Reserve money."""

    id: str
    account_id: str
    amount: int
    currency: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class CaptureHold:
    """Pay out a hold, in part or (amount None) whole; what is left is released."""

    id: str
    hold_id: str
    amount: int | None


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    """End a hold without paying: voided by a person, or expired by the clock."""

    hold_id: str
    status: str


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Freeze (`frozen`), unfreeze (`active`) or close (`closed`) an account."""

    account_id: str
    status: str


Command = OpenAccount | Deposit | Withdraw | Transfer | Reverse | PlaceHold | CaptureHold | ReleaseHold | SetStatus


@dataclass(frozen=True, slots=True)
class Posted:
    """The transaction was posted with these entries."""

    transaction: Transaction
    entries: tuple[Entry, Entry]


@dataclass(frozen=True, slots=True)
class AccountIs:
    """The account as it is now."""

    account: Account


@dataclass(frozen=True, slots=True)
class HoldIs:
    """The hold as it is now, with the transaction of its capture."""

    hold: Hold
    captured: Posted | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was refused and changed nothing; `code` is that of a problem."""

    code: str
    detail: str
    movement: Transaction | None = None


Outcome = Posted | AccountIs | HoldIs | Refused


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happened to an account, to be told to others as an event."""

    type: str
    account_id: str
    data: dict[str, Any]


@dataclass(slots=True)
class Book:
    """The part of the ledger that a batch touches, and what the batch changed in it."""

    accounts: dict[str, Account]
    cash: dict[str, str]
    holds: dict[str, Hold] = field(default_factory=dict)
    originals: dict[str, Transaction] = field(default_factory=dict)
    reversed: set[str] = field(default_factory=set)
    transactions: list[Transaction] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    opened: list[Account] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    changed_holds: set[str] = field(default_factory=set)
    facts: list[Fact] = field(default_factory=list)


def account_data(account: Account) -> dict[str, Any]:
    """Return an account as the API and events show it."""
    return {
        "id": account.id,
        "account_number": account.account_number,
        "owner": account.owner,
        "name": account.name,
        "currency": account.currency,
        "status": account.status,
        "balance": account.balance,
        "held": account.held,
        "available": account.available,
        "seq": account.seq,
        "created_at": rfc3339(account.created_at),
    }


def hold_data(hold: Hold) -> dict[str, Any]:
    """Return a hold as the API and events show it."""
    return {
        "id": hold.id,
        "account_id": hold.account_id,
        "amount": hold.amount,
        "captured_amount": hold.captured_amount,
        "currency": hold.currency,
        "status": hold.status,
        "expires_at": rfc3339(hold.expires_at),
        "transaction_id": hold.transaction_id,
        "created_at": rfc3339(hold.created_at),
        "placed_by": hold.placed_by,
    }
