"""Rows of holds, and reads of holds by clients.

Earlier releases support one capture per hold, and treat `amount` as the reserved amount. To let them capture and void
a partly captured hold during a rollout, the row of an active hold has the remaining amount in `amount`, 0 in
`captured_amount` and the original amount in `placed_amount`.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.model import MAX_BLOCKING_HOLDS, Hold
from app.models import audit_log, holds, transactions
from shared.db.database import Write

_UNCHANGED = ("id", "account_id", "currency", "created_at", "placed_by")
_CHANGED = ("status", "amount", "placed_amount", "captured_amount", "transaction_id", "expires_at")
COLUMNS = (*_UNCHANGED, *_CHANGED)
_SELECTED = [holds.c[name] for name in COLUMNS]


def to_hold(row: Row[Any]) -> Hold:
    """Return the hold of a row with COLUMNS."""
    amount = row.amount if row.placed_amount is None else row.placed_amount
    return Hold(
        id=row.id,
        account_id=row.account_id,
        amount=amount,
        captured_amount=amount - row.amount + row.captured_amount,
        currency=row.currency,
        status=row.status,
        expires_at=row.expires_at,
        transaction_id=row.transaction_id,
        created_at=row.created_at,
        placed_by=row.placed_by,
    )


def writes(placed: Sequence[Hold], changed: Sequence[Hold]) -> list[Write]:
    """Return the writes of new holds, and of existing ones."""
    return [
        Write(
            holds,
            COLUMNS,
            [
                (hold.id, hold.account_id, hold.currency, hold.created_at, hold.placed_by, *_state(hold))
                for hold in placed
            ],
        ),
        Write(holds, ("id", *_CHANGED), [(hold.id, *_state(hold)) for hold in changed], key="id"),
    ]


def _state(hold: Hold) -> tuple[Any, ...]:
    """Return the values of the columns that change."""
    if hold.status == "active":
        placed_amount = hold.amount if hold.captured_amount else None
        amounts = (hold.remaining_amount, placed_amount, 0)
    else:
        amounts = (hold.amount, None, hold.captured_amount)
    return (hold.status, *amounts, hold.transaction_id, hold.expires_at)


def oldest_active(of_accounts: ColumnElement[bool]) -> Select[Any]:
    """Return a select of the oldest active holds of each account."""
    number = func.row_number().over(partition_by=holds.c.account_id, order_by=holds.c.id).label("number")
    active = select(*_SELECTED, number).where(holds.c.status == "active", of_accounts).subquery()
    return select(*(active.c[name] for name in COLUMNS)).where(active.c.number <= MAX_BLOCKING_HOLDS)


async def find(connection: AsyncConnection, hold_id: str) -> Hold | None:
    """Return a hold, or None."""
    row = (await connection.execute(select(*_SELECTED).where(holds.c.id == hold_id))).one_or_none()
    return to_hold(row) if row else None


async def of_account(
    connection: AsyncConnection, account_id: str, status: str | None, before: str | None, limit: int
) -> list[Hold]:
    """Return the holds of an account before an id, newest first."""
    statement = select(*_SELECTED).where(holds.c.account_id == account_id).order_by(holds.c.id.desc()).limit(limit)
    if status is not None:
        statement = statement.where(holds.c.status == status)
    if before is not None:
        statement = statement.where(holds.c.id < before)
    return [to_hold(row) for row in await connection.execute(statement)]


async def changes(connection: AsyncConnection, hold_id: str, limit: int) -> list[Any]:
    """Return the audit entries of a hold, newest first, with the amounts of its captures."""
    columns = [audit_log.c[name] for name in ("action", "created_at", "transaction_id", "subject", "scope")]
    statement = (
        select(*columns, transactions.c.amount)
        .select_from(audit_log.outerjoin(transactions, transactions.c.id == audit_log.c.transaction_id))
        .where(audit_log.c.hold_id == hold_id)
        .order_by(audit_log.c.id.desc())
        .limit(limit)
    )
    return list((await connection.execute(statement)).all())
