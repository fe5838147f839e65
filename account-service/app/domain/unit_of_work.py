"""The unit of work of a batch: the accounts, holds and transactions it has loaded, and what it has changed."""

from collections.abc import Set
from dataclasses import dataclass, field
from datetime import datetime

from app.domain.events import DomainEvent
from app.domain.model import Account, Entry, Hold, Transaction


@dataclass(slots=True)
class UnitOfWork:
    """State that a batch of commands reads and changes; storage writes the changes in one database transaction."""

    accounts: dict[str, Account]
    # Ids of cash accounts by currency.
    cash_accounts: dict[str, str]
    holds: dict[str, Hold] = field(default_factory=dict)
    # Transactions that may be reversed, by id, and the amounts that have been reversed.
    reversible: dict[str, Transaction] = field(default_factory=dict)
    reversed_amounts: dict[str, int] = field(default_factory=dict)
    # When one of the locked accounts was last changed.
    last_change: datetime | None = None
    # Changes.
    transactions: list[Transaction] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    opened_accounts: list[Account] = field(default_factory=list)
    changed_accounts: set[str] = field(default_factory=set)
    # Those of the changed accounts whose limits or counted debits have changed.
    changed_limits: set[str] = field(default_factory=set)
    # Including those placed.
    changed_holds: set[str] = field(default_factory=set)
    placed_holds: set[str] = field(default_factory=set)
    # Events of the command that was decided last.
    events: list[DomainEvent] = field(default_factory=list)

    def savepoint(self, account_ids: Set[str]) -> "Savepoint":
        """Return the state before transfers and reversals between these accounts, for `roll_back`."""
        known = account_ids & self.accounts.keys()
        states = {id_: _state(self.accounts[id_]) for id_ in known}
        changed = account_ids & self.changed_accounts, account_ids & self.changed_limits
        return Savepoint(states, *changed, len(self.transactions), len(self.entries))

    def roll_back(self, savepoint: "Savepoint") -> None:
        """Undo the transfers and reversals since a savepoint."""
        for id_, state in savepoint.accounts.items():
            account = self.accounts[id_]
            account.balance, account.seq, account.debited, account.debited_since = state
        self.changed_limits -= savepoint.accounts.keys() - savepoint.changed_limits
        self.changed_accounts -= savepoint.accounts.keys() - savepoint.changed_accounts
        for transaction in self.transactions[savepoint.transactions :]:
            del self.reversible[transaction.id]
            if transaction.reverses is not None:
                self.reversed_amounts[transaction.reverses] -= transaction.amount
        del self.transactions[savepoint.transactions :]
        del self.entries[savepoint.entries :]


_State = tuple[int, int, int | None, datetime | None]


def _state(account: Account) -> _State:
    """Return what transfers and reversals change."""
    return account.balance, account.seq, account.debited, account.debited_since


@dataclass(frozen=True, slots=True)
class Savepoint:
    """The state of accounts, which of them have changed, and how much has been posted."""

    accounts: dict[str, _State]
    changed_accounts: Set[str]
    changed_limits: Set[str]
    transactions: int
    entries: int
