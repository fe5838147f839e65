"""SQL of the ledger: loads the unit of work under locks, writes its changes, and reads accounts."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import Select, Table, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.audit import Actor
from app.domain.commands import Command, References
from app.domain.model import Account, Entry, Hold, Transaction
from app.domain.unit_of_work import UnitOfWork
from app.models import accounts, entries, holds, transactions
from app.storage import hold_rows
from app.storage.triggers import VIOLATION
from shared.db.database import Write, any_of, bulk_insert_new
from shared.ids import new_id

_ACCOUNT_FIELDS = tuple(field.name for field in fields(Account))
_ACCOUNT_COLUMNS = [accounts.c[name] for name in _ACCOUNT_FIELDS]
_FIND_ACCOUNT = select(*_ACCOUNT_COLUMNS).where(accounts.c.id == bindparam("account_id"))
_TRANSACTION_FIELDS = tuple(field.name for field in fields(Transaction))
# Columns that are only written if one of the transactions has a value, so that the others cost nothing.
_OPTIONAL_FIELDS = ("metadata", "group_id")
_ENTRY_FIELDS = tuple(field.name for field in fields(Entry))
_ACTOR_FIELDS = tuple(field.name for field in fields(Actor))
# PostgreSQL: check_violation.
_CHECK_VIOLATION = "23514"
_account_values = attrgetter(*_ACCOUNT_FIELDS)
_CHANGES = ("id", "status", "balance", "held", "seq")
_LIMITS = ("overdraft_limit", "daily_debit_limit", "debited", "debited_since")
_changes = attrgetter(*_CHANGES)
_limits = attrgetter(*_LIMITS)


@dataclass(frozen=True, slots=True)
class _Statements:
    """Statements with a list of `ids`, built once per SQL dialect."""

    locked_accounts: Select[Any]
    originals: Select[Any]
    groups: Select[Any]
    reversals: Select[Any]
    holds: Select[Any]
    active_holds: Select[Any]


@cache
def _statements_for(dialect: str) -> _Statements:
    def with_ids(names: Sequence[str], table: Table, key: str) -> Select[Any]:
        return select(*(table.c[name] for name in names)).where(any_of(dialect, table.c[key], "ids"))

    return _Statements(
        # In id order, so that two batches never deadlock; FOR NO KEY UPDATE, because entries reference accounts.
        locked_accounts=with_ids([*_ACCOUNT_FIELDS, "updated_at"], accounts, "id")
        .order_by(accounts.c.id)
        .with_for_update(key_share=True),
        originals=with_ids(_TRANSACTION_FIELDS, transactions, "id"),
        groups=with_ids(_TRANSACTION_FIELDS, transactions, "group_id"),
        reversals=with_ids(["reverses", "amount"], transactions, "reverses"),
        holds=with_ids(hold_rows.COLUMNS, holds, "id"),
        active_holds=hold_rows.oldest_active(any_of(dialect, holds.c.account_id, "ids")),
    )


def _statements(connection: AsyncConnection) -> _Statements:
    return _statements_for(connection.dialect.name)


async def open_cash_accounts(connection: AsyncConnection, currencies: Iterable[str], now: datetime) -> dict[str, str]:
    """Open the cash accounts of the currencies that have none; return the ids of all cash accounts by currency."""
    rows = [
        {
            "id": new_id(),
            "account_number": f"CASH{currency}",
            "owner": "",  # no caller: the subject of a token is never empty
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
    return await _cash_accounts(connection)


async def _cash_accounts(connection: AsyncConnection) -> dict[str, str]:
    rows = await connection.execute(select(accounts.c.currency, accounts.c.id).where(accounts.c.kind == "cash"))
    return {row.currency: row.id for row in rows}


async def load_unit_of_work(
    connection: AsyncConnection, commands: Iterable[Command], cash_accounts: Mapping[str, str]
) -> UnitOfWork:
    """Lock the accounts that the commands refer to, in id order, and load everything their decisions need.

    Holds and reversals may change while this waits for the locks, so they are read once the locks are held.
    """
    references = References.union(command.references for command in commands)
    originals = await _originals(connection, references)
    unlocked_holds = await _holds(connection, references.holds)
    captured = {hold.currency for hold in unlocked_holds if hold.id in references.captured_holds}
    cash_currencies = references.cash | captured
    if not cash_currencies | references.unlocked_cash <= cash_accounts.keys():
        # Another replica may have opened it. If there is none, no account has the currency: the command is refused.
        cash_accounts = await _cash_accounts(connection)
    account_ids = {
        *references.accounts,
        *(account for original in originals.values() for account in (original.from_account, original.to_account)),
        *(hold.account_id for hold in unlocked_holds),
        *(cash_accounts[currency] for currency in cash_currencies & cash_accounts.keys()),
    }
    locked, last_change = await _lock_accounts(connection, account_ids)
    unit = UnitOfWork(locked, dict(cash_accounts), reversible=originals, last_change=last_change)
    if originals:
        reversals = await connection.execute(_statements(connection).reversals, {"ids": list(originals)})
        for reversal in reversals:
            unit.reversed_amounts[reversal.reverses] = unit.reversed_amounts.get(reversal.reverses, 0) + reversal.amount
    loaded_holds = [
        *await _holds(connection, references.holds),
        *await _active_holds(connection, {id_ for id_ in references.accounts_to_close if _has_holds(unit, id_)}),
    ]
    unit.holds = {hold.id: hold for hold in loaded_holds}
    return unit


def _has_holds(unit: UnitOfWork, account_id: str) -> bool:
    return account_id in unit.accounts and unit.accounts[account_id].held > 0


async def _originals(connection: AsyncConnection, references: References) -> dict[str, Transaction]:
    found: dict[str, Transaction] = {}
    statements = _statements(connection)
    for statement, ids in ((statements.originals, references.transactions), (statements.groups, references.groups)):
        if ids:
            rows = await connection.execute(statement, {"ids": list(ids)})
            found.update((row.id, Transaction(*row)) for row in rows)
    return found


async def _holds(connection: AsyncConnection, ids: Set[str]) -> list[Hold]:
    if not ids:
        return []
    rows = await connection.execute(_statements(connection).holds, {"ids": list(ids)})
    return [hold_rows.to_hold(row) for row in rows]


async def _active_holds(connection: AsyncConnection, account_ids: Set[str]) -> list[Hold]:
    if not account_ids:
        return []
    rows = await connection.execute(_statements(connection).active_holds, {"ids": list(account_ids)})
    return [hold_rows.to_hold(row) for row in rows]


async def _lock_accounts(connection: AsyncConnection, ids: Set[str]) -> tuple[dict[str, Account], datetime | None]:
    """Lock accounts; return them, and when one of them was last changed."""
    if not ids:
        return {}, None
    rows = (await connection.execute(_statements(connection).locked_accounts, {"ids": list(ids)})).all()
    return {row.id: Account(*row[:-1]) for row in rows}, max((row.updated_at for row in rows), default=None)


def writes_for(unit: UnitOfWork, posted_by: Sequence[Actor], now: datetime) -> list[Write]:
    """Return the changes of the unit of work as set-based writes, entries in the order of their decisions.

    `posted_by` has the actor of each of its transactions.
    """
    absent = {
        name
        for name in _OPTIONAL_FIELDS
        if all(getattr(transaction, name) is None for transaction in unit.transactions)
    }
    names = tuple(name for name in _TRANSACTION_FIELDS if name not in absent)
    transaction_values = attrgetter(*names)
    opened = {account.id for account in unit.opened_accounts}
    changed = [unit.accounts[account_id] for account_id in unit.changed_accounts - opened - unit.changed_limits]
    limited = [unit.accounts[account_id] for account_id in unit.changed_limits - opened]
    return [
        Write(
            accounts,
            (*_ACCOUNT_FIELDS, "updated_at"),
            [(*_account_values(account), now) for account in unit.opened_accounts],
        ),
        Write(
            transactions,
            (*names, *_ACTOR_FIELDS),
            [
                (*transaction_values(transaction), actor.subject, actor.scope, actor.request_id)
                for transaction, actor in zip(unit.transactions, posted_by, strict=True)
            ],
        ),
        Write.of(entries, _ENTRY_FIELDS, unit.entries),
        Write(accounts, (*_CHANGES, "updated_at"), [(*_changes(account), now) for account in changed], key="id"),
        # Apart, so that accounts without a limit cost nothing.
        Write(
            accounts,
            (*_CHANGES, *_LIMITS, "updated_at"),
            [(*_changes(account), *_limits(account), now) for account in limited],
            key="id",
        ),
        *hold_rows.writes(
            [unit.holds[hold_id] for hold_id in unit.placed_holds],
            [unit.holds[hold_id] for hold_id in unit.changed_holds - unit.placed_holds],
        ),
    ]


async def find_account(connection: AsyncConnection, account_id: str) -> Account | None:
    """Return an account, or None."""
    row = (await connection.execute(_FIND_ACCOUNT, {"account_id": account_id})).one_or_none()
    return Account(*row) if row else None


async def customer_accounts(
    connection: AsyncConnection, owner: str | None, after: str | None, limit: int
) -> list[Account]:
    """Return customer accounts in id order, of one owner or of all."""
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
    condition = accounts.c.id == account_id if account_id is not None else accounts.c.owner == owner
    statement = select(*columns).where(condition).order_by(accounts.c.id).limit(limit)
    return list((await connection.execute(statement)).all())


async def expired_holds(connection: AsyncConnection, now: datetime, limit: int) -> list[str]:
    """Return ids of active holds that have expired, oldest first."""
    due = select(holds.c.id).where((holds.c.status == "active") & (holds.c.expires_at <= now))
    return list((await connection.scalars(due.order_by(holds.c.expires_at).limit(limit))).all())


async def imbalance(connection: AsyncConnection) -> dict[str, int]:
    """Return the sum of all balances per currency; it is zero unless the ledger is inconsistent."""
    sums = select(accounts.c.currency, func.sum(accounts.c.balance)).group_by(accounts.c.currency)
    return {currency: int(total) for currency, total in await connection.execute(sums)}


def violated_constraint(error: BaseException) -> str | None:
    """Return the ledger constraint that rejected a write; None for any other error.

    Unique violations are not counted: two replicas have used the same key or opened the same account.
    """
    cause = getattr(getattr(error, "orig", None), "__cause__", None)
    state = getattr(cause, "sqlstate", None)
    return getattr(cause, "constraint_name", None) if state in (VIOLATION, _CHECK_VIOLATION) else None
