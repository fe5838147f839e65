"""Compares the held money of accounts with their active holds after changes of holds, whichever release made them."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.models import accounts, audit_log, holds

# Under load only the accounts of the newest changes are compared: a fault shows in some of them.
_MAX_CHANGES = 200


async def newest_change(connection: AsyncConnection) -> str:
    """Return the id of the newest audit entry; empty without any."""
    return await connection.scalar(select(audit_log.c.id).order_by(audit_log.c.id.desc()).limit(1)) or ""


async def count_mismatches(connection: AsyncConnection, after: str) -> tuple[int, str]:
    """Compare the accounts whose holds have changed after an audit entry.

    Return how many of them hold another amount than their active holds, and the id of the newest audit entry.
    """
    newest_first = select(audit_log.c.id, audit_log.c.account_id, audit_log.c.hold_id)
    newest_first = newest_first.order_by(audit_log.c.id.desc()).limit(_MAX_CHANGES)
    if after:
        newest_first = newest_first.where(audit_log.c.id > after)
    changes = (await connection.execute(newest_first)).all()
    changed = {change.account_id for change in changes if change.hold_id is not None}
    newest = changes[0].id if changes else after
    if not changed:
        return 0, newest
    active = (
        select(holds.c.account_id, func.sum(holds.c.amount).label("amount"))
        .where(holds.c.status == "active", holds.c.account_id.in_(changed))
        .group_by(holds.c.account_id)
        .subquery()
    )
    # One statement, which sees both tables at the same time.
    wrong = (
        select(func.count())
        .select_from(accounts.outerjoin(active, active.c.account_id == accounts.c.id))
        .where(accounts.c.id.in_(changed), accounts.c.held != func.coalesce(active.c.amount, 0))
    )
    return await connection.scalar(wrong) or 0, newest
