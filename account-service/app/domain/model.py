"""The ledger's data: accounts, transactions, entries and holds."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.currencies import major_units
from shared.http.views import metadata_member
from shared.ids import rfc3339

# Balances and available amounts of customers stay below 2^53, which every JSON parser reads exactly.
MAX_BALANCE = 8 * 10**15
MAX_LIMIT = 10**15
# A cash account is the counterparty of all deposits in its currency: half of what a database bigint can hold.
MAX_CASH_BALANCE = 4 * 10**18
# Maximum number of transactions of a group.
MAX_LEGS = 100
# Maximum number of their currencies: an exchange has legs in two.
MAX_CURRENCIES = 2
# Maximum time between the placing of a hold and its expiry.
MAX_HOLD_SECONDS = 365 * 86400
# Maximum number of hold ids returned when closing an account is refused.
MAX_BLOCKING_HOLDS = 20


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
    # None: never set.
    overdraft_limit: int | None = None
    daily_debit_limit: int | None = None
    # Debits that count towards the daily limit, and since when; None without such a limit.
    debited: int | None = None
    debited_since: datetime | None = None
    # JSON object of texts; None without.
    metadata: str | None = None

    @property
    def available(self) -> int:
        """The amount that can be spent: the balance less active holds, plus the overdraft limit."""
        return self.balance - self.held + (self.overdraft_limit or 0)


@dataclass(frozen=True, slots=True)
class Transaction:
    """A movement of money between two accounts, posted or refused."""

    id: str
    type: str
    amount: int
    currency: str
    from_account: str
    to_account: str
    reference: str | None
    reverses: str | None
    created_at: datetime
    # JSON object of texts; None without.
    metadata: str | None = None
    # Group whose transactions were posted all or none; None for a single transaction.
    group_id: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a transaction; `seq` numbers the entries of an account without gaps."""

    account_id: str
    seq: int
    transaction_id: str
    amount: int
    balance_after: int


@dataclass(frozen=True, slots=True)
class BalanceAt:
    """The balance of an account after one of its entries, or before the first one."""

    balance: int = 0
    seq: int = 0
    transaction_id: str | None = None
    posted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Money reserved for later captures.

    `amount` is what was reserved when it was placed, `captured_amount` the sum of its captures, and `transaction_id`
    the last of them.
    """

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

    @property
    def remaining_amount(self) -> int:
        """The amount that is still reserved."""
        return self.amount - self.captured_amount if self.status == "active" else 0


def format_amount(amount: int, currency: str) -> str:
    """Return an amount in minor units as people write it, for example `10.50 USD`."""
    return f"{major_units(amount, currency)} {currency}"


def account_data(account: Account) -> dict[str, Any]:
    """Return an account as the API and events represent it."""
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
        "overdraft_limit": account.overdraft_limit or 0,
        "daily_debit_limit": account.daily_debit_limit,
        "seq": account.seq,
        "created_at": rfc3339(account.created_at),
        **metadata_member(account.metadata),
    }


def balance_data(account: Account, balance: BalanceAt) -> dict[str, Any]:
    """Return the balance of an account as the API represents it."""
    return {
        "account_id": account.id,
        "currency": account.currency,
        "balance": balance.balance,
        "seq": balance.seq,
        "transaction_id": balance.transaction_id,
        "posted_at": rfc3339(balance.posted_at) if balance.posted_at else None,
    }


def hold_data(hold: Hold) -> dict[str, Any]:
    """Return a hold as the API and events represent it."""
    return {
        "id": hold.id,
        "account_id": hold.account_id,
        "amount": hold.amount,
        "captured_amount": hold.captured_amount,
        "remaining_amount": hold.remaining_amount,
        "currency": hold.currency,
        "status": hold.status,
        "expires_at": rfc3339(hold.expires_at),
        "transaction_id": hold.transaction_id,
        "created_at": rfc3339(hold.created_at),
        "placed_by": hold.placed_by,
    }
