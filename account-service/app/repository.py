"""All SQL of account-service: loading the book under locks, writing what a batch changed, and the read side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import Select, Table, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.book import (
    Account,
    Book,
    CaptureHold,
    Command,
    Deposit,
    Entry,
    Hold,
    PlaceHold,
    ReleaseHold,
    Reverse,
    SetStatus,
    Transaction,
    Transfer,
    Withdraw,
)
from app.audit import Actor
from app.guard import VIOLATION
from app.models import accounts, entries, holds, transactions
from shared.db.database import Write, any_of, bulk_insert_new
from shared.ids import new_id

_ACCOUNT_FIELDS = tuple(field.name for field in fields(Account))
_ACCOUNT_COLUMNS = [accounts.c[name] for name in _ACCOUNT_FIELDS]
_TRANSACTION_FIELDS = tuple(field.name for field in fields(Transaction))
_ENTRY_FIELDS = tuple(field.name for field in fields(Entry))
_HOLD_FIELDS = tuple(field.name for field in fields(Hold))
_ACTOR_FIELDS = tuple(field.name for field in fields(Actor))
_CHECK_VIOLATION = "23514"
_transaction_values = attrgetter(*_TRANSACTION_FIELDS)
_account_values = attrgetter(*_ACCOUNT_FIELDS)


@dataclass(frozen=True, slots=True)
class _Statements:
    """Statements about a list of `ids`, built once per database system."""

    locked_accounts: Select[Any]
    originals: Select[Any]
    reversals: Select[Any]
    holds: Select[Any]


@cache
def _statements_for(dialect: str) -> _Statements:
    def with_ids(names: Sequence[str], table: Table, key: str) -> Select[Any]:
        return select(*(table.c[name] for name in names)).where(any_of(dialect, table.c[key], "ids"))

    return _Statements(
        # Always in id order, so that two batches never wait for each other; entries refer to accounts, hence NO KEY.
        locked_accounts=with_ids(_ACCOUNT_FIELDS, accounts, "id")
        .order_by(accounts.c.id)
        .with_for_update(key_share=True),
        originals=with_ids(_TRANSACTION_FIELDS, transactions, "id"),
        reversals=with_ids(["reverses"], transactions, "reverses"),
        holds=with_ids(_HOLD_FIELDS, holds, "id"),
    )


def _statements(connection: AsyncConnection) -> _Statements:
    return _statements_for(connection.dialect.name)


async def cash_accounts(connection: AsyncConnection, currencies: Iterable[str], now: datetime) -> dict[str, str]:
    """Return the id of each currency's cash account, opening those that are not there yet."""
    rows = [
        {
            "id": new_id(),
            "account_number": f"CASH{currency}",
            "owner": "",  # nobody: a token always has a subject
            "name": None,
            "kind": "cash",
            "currency": currency,
            "status": "active",
            "balance": 0,
            "held": 0,
            "seq": 0,
            "created_at": now,
            "updated_at": now,
        }
        for currency in sorted(set(currencies))
    ]
    await bulk_insert_new(connection, accounts, rows)
    return await _open_cash_accounts(connection)


async def _open_cash_accounts(connection: AsyncConnection) -> dict[str, str]:
    found = await connection.execute(select(accounts.c.currency, accounts.c.id).where(accounts.c.kind == "cash"))
    return {row.currency: row.id for row in found}


async def load_book(connection: AsyncConnection, commands: Sequence[Command], cash: Mapping[str, str]) -> Book:
    """Lock the accounts that the commands may touch, in id order, and return them with all a decision needs.

    What may change while we wait for the locks (holds, reversals) is read after we have them.
    """
    original_ids = {command.transaction_id for command in commands if isinstance(command, Reverse)}
    hold_ids = {command.hold_id for command in commands if isinstance(command, CaptureHold | ReleaseHold)}
    originals = await _originals(connection, original_ids)
    held = await _held(connection, hold_ids)
    wanted = {hold.account_id for hold in held}
    for original in originals.values():
        wanted |= {original.from_account, original.to_account}
    for command in commands:
        if isinstance(command, Transfer):
            wanted |= {command.from_account, command.to_account}
        elif isinstance(command, Deposit | Withdraw | PlaceHold | SetStatus):
            wanted.add(command.account_id)
    moved = {command.currency for command in commands if isinstance(command, Deposit | Withdraw)}
    if any(isinstance(command, CaptureHold) for command in commands):
        moved |= {hold.currency for hold in held}
    named = {command.currency for command in commands if isinstance(command, PlaceHold)}
    if not moved | named <= cash.keys():
        # Opened by another replica, or a currency that no account has: a request alone opens no cash account.
        cash = await _open_cash_accounts(connection)
    wanted |= {cash[currency] for currency in moved & cash.keys()}
    book = Book(await _lock_accounts(connection, wanted), dict(cash), originals=originals)
    if original_ids:
        reversals = await connection.scalars(_statements(connection).reversals, {"ids": list(original_ids)})
        book.reversed = set(reversals.all())
    book.holds = {hold.id: hold for hold in await _held(connection, hold_ids)}
    return book


async def _originals(connection: AsyncConnection, ids: set[str]) -> dict[str, Transaction]:
    if not ids:
        return {}
    rows = await connection.execute(_statements(connection).originals, {"ids": list(ids)})
    return {row.id: Transaction(*row) for row in rows}


async def _held(connection: AsyncConnection, ids: set[str]) -> list[Hold]:
    if not ids:
        return []
    return [Hold(*row) for row in await connection.execute(_statements(connection).holds, {"ids": list(ids)})]


async def _lock_accounts(connection: AsyncConnection, ids: set[str]) -> dict[str, Account]:
    if not ids:
        return {}
    locked = await connection.execute(_statements(connection).locked_accounts, {"ids": list(ids)})
    return {row.id: Account(*row) for row in locked}


def writes_of(book: Book, posted_by: Sequence[Actor], now: datetime) -> list[Write]:
    """Return what the batch changed as set-based writes, entries in the order of their decisions.

    `posted_by` says who posted each of the book's transactions.
    """
    opened = {account.id for account in book.opened}
    changed = [book.accounts[account_id] for account_id in book.changed - opened]
    placed = [book.holds[hold_id] for hold_id in book.changed_holds if book.holds[hold_id].status == "active"]
    settled = [book.holds[hold_id] for hold_id in book.changed_holds if book.holds[hold_id].status != "active"]
    return [
        Write(
            accounts, (*_ACCOUNT_FIELDS, "updated_at"), [(*_account_values(account), now) for account in book.opened]
        ),
        Write(
            transactions,
            (*_TRANSACTION_FIELDS, *_ACTOR_FIELDS),
            [
                (*_transaction_values(transaction), actor.subject, actor.scope, actor.request_id)
                for transaction, actor in zip(book.transactions, posted_by, strict=True)
            ],
        ),
        Write.of(entries, _ENTRY_FIELDS, book.entries),
        Write(
            accounts,
            ("id", "status", "balance", "held", "seq", "updated_at"),
            [(account.id, account.status, account.balance, account.held, account.seq, now) for account in changed],
            key="id",
        ),
        Write.of(holds, _HOLD_FIELDS, placed),
        Write.of(holds, ("id", "status", "captured_amount", "transaction_id"), settled, key="id"),
    ]


async def find_account(connection: AsyncConnection, account_id: str) -> Account | None:
    """Return an account, or None."""
    row = (await connection.execute(select(*_ACCOUNT_COLUMNS).where(accounts.c.id == account_id))).one_or_none()
    return Account(*row) if row else None


async def customer_accounts(
    connection: AsyncConnection, owner: str | None, after: str | None, limit: int
) -> list[Account]:
    """Return customers' accounts in id order: one owner's, or everybody's."""
    statement = select(*_ACCOUNT_COLUMNS).where(accounts.c.kind == "customer").order_by(accounts.c.id).limit(limit)
    if owner is not None:
        statement = statement.where(accounts.c.owner == owner)
    if after is not None:
        statement = statement.where(accounts.c.id > after)
    return [Account(*row) for row in await connection.execute(statement)]


async def balances(connection: AsyncConnection, after: str | None, limit: int) -> list[Any]:
    """Return id, currency, balance, seq and time of the last change of all accounts, in id order."""
    columns = (accounts.c.id, accounts.c.currency, accounts.c.balance, accounts.c.seq, accounts.c.updated_at)
    statement = select(*columns).order_by(accounts.c.id).limit(limit)
    if after is not None:
        statement = statement.where(accounts.c.id > after)
    return list((await connection.execute(statement)).all())


async def seqs(connection: AsyncConnection, account_id: str | None, owner: str | None, limit: int) -> list[Any]:
    """Return id, owner, currency and seq of an account, or of an owner's accounts in id order."""
    columns = (accounts.c.id, accounts.c.owner, accounts.c.currency, accounts.c.seq)
    wanted = accounts.c.id == account_id if account_id is not None else accounts.c.owner == owner
    statement = select(*columns).where(wanted).order_by(accounts.c.id).limit(limit)
    return list((await connection.execute(statement)).all())


async def expired_holds(connection: AsyncConnection, now: datetime, limit: int) -> list[str]:
    """Return ids of active holds whose time is over, the oldest first."""
    due = select(holds.c.id).where((holds.c.status == "active") & (holds.c.expires_at <= now))
    return list((await connection.scalars(due.order_by(holds.c.expires_at).limit(limit))).all())


async def imbalance(connection: AsyncConnection) -> dict[str, int]:
    """Return the sum of all balances per currency; anything but zero is a broken ledger."""
    sums = select(accounts.c.currency, func.sum(accounts.c.balance)).group_by(accounts.c.currency)
    return {currency: int(total) for currency, total in await connection.execute(sums)}


def violated(error: BaseException) -> str | None:
    """Return the constraint of the ledger that a write was refused for; None for another error.

    Two replicas that use the same key, or open the same account, are in conflict and violate nothing.
    """
    cause = getattr(getattr(error, "orig", None), "__cause__", None)
    state = getattr(cause, "sqlstate", None)
    return getattr(cause, "constraint_name", None) if state in (VIOLATION, _CHECK_VIOLATION) else None


INVARIANTS: Mapping[str, str] = {
    "entries of a transaction do not sum to zero": """
        SELECT transaction_id FROM entries GROUP BY transaction_id HAVING sum(amount) <> 0 OR count(*) < 2""",
    "a transaction has no entries": """
        SELECT t.id FROM transactions t WHERE NOT EXISTS (SELECT 1 FROM entries e WHERE e.transaction_id = t.id)""",
    "a balance differs from the sum of its entries": """
        SELECT a.id FROM accounts a LEFT JOIN (SELECT account_id, sum(amount) AS total, count(*) AS n, max(seq) AS last
        FROM entries GROUP BY account_id) e ON e.account_id = a.id
        WHERE a.balance <> coalesce(e.total, 0) OR a.seq <> coalesce(e.n, 0) OR a.seq <> coalesce(e.last, 0)""",
    "the balance_after chain is broken": """
        SELECT account_id FROM (SELECT account_id, balance_after,
        sum(amount) OVER (PARTITION BY account_id ORDER BY seq) AS running FROM entries) chain
        WHERE balance_after <> running""",
    "a customer's balance is negative": """
        SELECT account_id FROM entries e JOIN accounts a ON a.id = e.account_id
        WHERE a.kind = 'customer' AND e.balance_after < 0""",
    "held money differs from the active holds": """
        SELECT a.id FROM accounts a WHERE a.held <>
        (SELECT coalesce(sum(h.amount), 0) FROM holds h WHERE h.account_id = a.id AND h.status = 'active')""",
    "balances of a currency do not sum to zero": """
        SELECT currency FROM accounts GROUP BY currency HAVING sum(balance) <> 0""",
}


async def broken_invariants(connection: AsyncConnection) -> list[str]:
    """Check the whole ledger; return a line for every invariant that does not hold, with up to three examples."""
    broken = []
    for meaning, query in INVARIANTS.items():
        found = (await connection.scalars(text(query))).fetchmany(3)
        if found:
            broken.append(f"{meaning}: {', '.join(str(example) for example in found)}")
    return broken
