"""The commands of the ledger, the ids that each refers to, and their results."""

from collections.abc import Iterable, Set
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Self

from app.domain.model import Account, Entry, Hold, Transaction

_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class References:
    """The ids that commands refer to, so that everything a batch needs is loaded at once."""

    accounts: Set[str] = _NONE
    # Loaded with both of their accounts.
    transactions: Set[str] = _NONE
    # Their transactions are loaded, as `transactions` are.
    groups: Set[str] = _NONE
    # Loaded with their accounts.
    holds: Set[str] = _NONE
    # Their active holds are loaded, up to a limit each.
    accounts_to_close: Set[str] = _NONE
    # Holds that are paid out to the cash account of their currency.
    captured_holds: Set[str] = _NONE
    # Currencies whose cash account is locked, to be debited or credited.
    cash: Set[str] = _NONE
    # Currencies whose cash account is not locked: only its id is needed, for the event of a refused hold.
    unlocked_cash: Set[str] = _NONE

    @classmethod
    def union(cls, parts: Iterable["References"]) -> Self:
        """Return the references of all parts."""
        parts = list(parts)
        return cls(*(frozenset().union(*(getattr(part, field.name) for part in parts)) for field in fields(cls)))


@dataclass(frozen=True, slots=True)
class OpenAccount:
    """Open an account for the caller."""

    id: str
    account_number: str
    currency: str
    name: str | None
    metadata: str | None = None

    @property
    def references(self) -> References:
        """Nothing that exists yet."""
        return References()


@dataclass(frozen=True, slots=True)
class _CashCommand:
    """Move money between an account and the cash account of its currency."""

    id: str
    account_id: str
    amount: int
    currency: str
    reference: str | None
    metadata: str | None = None

    @property
    def references(self) -> References:
        """The account and the cash account."""
        return References(accounts={self.account_id}, cash={self.currency})


class Deposit(_CashCommand):
    """Credit an account with money from outside the bank."""

    __slots__ = ()


class Withdraw(_CashCommand):
    """Pay money out of the bank."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Transfer:
    """Move money from one account to another."""

    id: str
    from_account: str
    to_account: str
    amount: int
    currency: str
    reference: str | None
    metadata: str | None = None
    group_id: str | None = None

    @property
    def references(self) -> References:
        """Both accounts."""
        return References(accounts={self.from_account, self.to_account})


@dataclass(frozen=True, slots=True)
class Reverse:
    """Reverse a part of a posted transaction, or (`amount` None) all that is left of it, by a new transaction."""

    id: str
    transaction_id: str
    reason: str | None
    amount: int | None = None
    metadata: str | None = None
    group_id: str | None = None

    @property
    def references(self) -> References:
        """The original transaction."""
        return References(transactions={self.transaction_id})


@dataclass(frozen=True, slots=True)
class PostGroup:
    """Post transfers, the legs, in order: all of them or none. Their `group_id` is the id of the group."""

    id: str
    legs: tuple[Transfer, ...]

    @property
    def references(self) -> References:
        """The accounts of all legs."""
        return References.union(leg.references for leg in self.legs)


@dataclass(frozen=True, slots=True)
class ReverseGroup:
    """Reverse all that is left of the transactions of a group, the last one first: all of them or none.

    `ids` are those of the reversals, as many as a group may have transactions; `id` is that of their group.
    """

    id: str
    ids: tuple[str, ...]
    group_id: str
    reason: str | None
    metadata: str | None = None

    @property
    def references(self) -> References:
        """The original group."""
        return References(groups={self.group_id})


@dataclass(frozen=True, slots=True)
class PlaceHold:
    """Reserve money on an account."""

    id: str
    account_id: str
    amount: int
    currency: str
    expires_at: datetime

    @property
    def references(self) -> References:
        """The account; the cash account is the counterparty of a refused hold."""
        return References(accounts={self.account_id}, unlocked_cash={self.currency})


@dataclass(frozen=True, slots=True)
class CaptureHold:
    """Pay out a part of a hold, or (`amount` None) all that is left; `final` releases the rest and ends the hold."""

    id: str
    hold_id: str
    amount: int | None
    final: bool = True
    metadata: str | None = None

    @property
    def references(self) -> References:
        """The hold, which is paid out to the cash account."""
        return References(holds={self.hold_id}, captured_holds={self.hold_id})


@dataclass(frozen=True, slots=True)
class ExtendHold:
    """Let a hold expire later."""

    hold_id: str
    expires_at: datetime

    @property
    def references(self) -> References:
        """The hold."""
        return References(holds={self.hold_id})


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    """Release a hold without paying it out: `voided` by a caller, or `expired`."""

    hold_id: str
    status: str

    @property
    def references(self) -> References:
        """The hold."""
        return References(holds={self.hold_id})


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Freeze (`frozen`), unfreeze (`active`) or close (`closed`) an account."""

    account_id: str
    status: str

    @property
    def references(self) -> References:
        """The account, and the holds that prevent closing it."""
        closed = {self.account_id} if self.status == "closed" else _NONE
        return References(accounts={self.account_id}, accounts_to_close=closed)


@dataclass(frozen=True, slots=True)
class SetLimits:
    """Set the limits of an account; without a daily debit limit (None) debits are only limited by what is available."""

    account_id: str
    overdraft_limit: int
    daily_debit_limit: int | None

    @property
    def references(self) -> References:
        """The account."""
        return References(accounts={self.account_id})


Command = (
    OpenAccount
    | Deposit
    | Withdraw
    | Transfer
    | Reverse
    | PostGroup
    | ReverseGroup
    | PlaceHold
    | CaptureHold
    | ExtendHold
    | ReleaseHold
    | SetStatus
    | SetLimits
)


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """The posted transaction and its entries."""

    transaction: Transaction
    entries: tuple[Entry, Entry]


@dataclass(frozen=True, slots=True)
class GroupResult:
    """The posted transactions of a group, in order."""

    id: str
    legs: tuple[TransactionResult, ...]


@dataclass(frozen=True, slots=True)
class AccountResult:
    """The account after the command."""

    account: Account


@dataclass(frozen=True, slots=True)
class HoldResult:
    """The hold after the command, with the transaction of its capture."""

    hold: Hold
    capture: TransactionResult | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The command was refused and changed nothing; `code` is the problem code.

    `holds` are the ids of the holds that prevent the closing of an account, `leg` is the index of the refused leg of a
    group, from 0.
    """

    code: str
    detail: str
    transaction: Transaction | None = None
    holds: tuple[str, ...] = ()
    leg: int | None = None


Result = TransactionResult | GroupResult | AccountResult | HoldResult | Refusal
