"""SQL of webhooks: subscriptions, the events to deliver, and the delivery log."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, exists, func, or_, select, union_all, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.models import accounts, inbox, webhook_deliveries, webhook_events, webhooks
from shared.db.database import bulk_insert_new, is_postgres
from shared.ids import first_id

_PRODUCER = "account-service"
# Advisory lock, shared by ingestions and exclusive for creations.
_CREATION_LOCK = 0x776562686F6F6B

_ENABLED = webhooks.c.disabled_reason.is_(None)


async def lock_creation(connection: AsyncConnection) -> None:
    """Wait for running ingestions, which do not see a webhook that is created now; later ones do."""
    if is_postgres(connection):
        await connection.execute(select(func.pg_advisory_xact_lock(_CREATION_LOCK)))


async def last_consumed(connection: AsyncConnection) -> int:
    """Return the last consumed position; earlier ones may be missing."""
    consumed = await inbox.consumed(connection, _PRODUCER)
    return consumed.ranges[-1].last if consumed and consumed.ranges else 0


async def gapless_end(connection: AsyncConnection) -> int:
    """Return the position up to which no event is missing."""
    consumed = await inbox.consumed(connection, _PRODUCER)
    return consumed.gapless_end if consumed else 0


async def wanted(connection: AsyncConnection, account_ids: Collection[str]) -> set[str]:
    """Return those of the accounts whose events a webhook may want; disabled webhooks and unknown owners included."""
    if is_postgres(connection):
        await connection.execute(select(func.pg_advisory_xact_lock_shared(_CREATION_LOCK)))
    if (await connection.execute(select(webhooks.c.id).limit(1))).one_or_none() is None:
        return set()
    own = webhooks.c.all_accounts | (webhooks.c.owner == accounts.c.owner)
    subscribed = exists().where(or_(webhooks.c.account_id.is_(None), webhooks.c.account_id == accounts.c.id), own)
    known = select(accounts.c.id).where(accounts.c.id.in_(sorted(account_ids)), ~subscribed)
    # An account's first event may arrive after others, so an unknown account may belong to the owner of a webhook.
    return set(account_ids) - set((await connection.scalars(known)).all())


async def add_events(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert events that do not exist yet."""
    await bulk_insert_new(connection, webhook_events, sorted(rows, key=lambda row: row["position"]))


async def add(connection: AsyncConnection, row: dict[str, Any]) -> None:
    """Insert a webhook."""
    await connection.execute(webhooks.insert().values(row))


async def find(connection: AsyncConnection, id_: str) -> Row[Any] | None:
    """Return a webhook, None if there is none."""
    return (await connection.execute(select(webhooks).where(webhooks.c.id == id_))).one_or_none()


async def count(connection: AsyncConnection, owner: str) -> int:
    """Return the number of an owner's webhooks."""
    return await connection.scalar(select(func.count()).where(webhooks.c.owner == owner)) or 0


async def listed(connection: AsyncConnection, owner: str | None, after: str | None, limit: int) -> Sequence[Row[Any]]:
    """Return webhooks of an owner (None: all), in the order of their ids."""
    statement = select(webhooks).order_by(webhooks.c.id).limit(limit)
    if owner is not None:
        statement = statement.where(webhooks.c.owner == owner)
    if after is not None:
        statement = statement.where(webhooks.c.id > after)
    return (await connection.execute(statement)).all()


async def change(connection: AsyncConnection, id_: str, **values: Any) -> Row[Any]:
    """Change columns of an existing webhook and return it."""
    changed = update(webhooks).where(webhooks.c.id == id_).values(values).returning(webhooks)
    row: Row[Any] = (await connection.execute(changed)).one()
    return row


async def remove(connection: AsyncConnection, id_: str) -> None:
    """Delete a webhook with its delivery log."""
    await connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.webhook_id == id_))
    await connection.execute(delete(webhooks).where(webhooks.c.id == id_))


async def deliveries(connection: AsyncConnection, id_: str, before: str | None, limit: int) -> Sequence[Row[Any]]:
    """Return the attempts of a webhook, newest first."""
    statement = select(webhook_deliveries).where(webhook_deliveries.c.webhook_id == id_)
    if before is not None:
        statement = statement.where(webhook_deliveries.c.id < before)
    return (await connection.execute(statement.order_by(webhook_deliveries.c.id.desc()).limit(limit))).all()


async def due(
    connection: AsyncConnection, now: datetime, limit: int, per_owner: int, without: Collection[str]
) -> Sequence[Row[str, str, int]]:
    """Return id, owner and failures of webhooks with events to deliver, up to a number per owner.

    Healthy ones come first, then the longest unserved. `without` are owners whose webhooks are left out.
    """
    last = await gapless_end(connection)
    some = or_(*(and_(kind, exists().where(*conditions)) for kind, conditions in _waiting(last)))
    order = (webhooks.c.failures > 0, webhooks.c.next_attempt_at)
    turn = func.row_number().over(partition_by=webhooks.c.owner, order_by=order).label("turn")
    columns = webhooks.c.id, webhooks.c.owner, webhooks.c.failures, webhooks.c.next_attempt_at
    found = select(*columns, turn).where(_free(now), some, webhooks.c.owner.not_in(sorted(without))).subquery()
    statement = select(found.c.id, found.c.owner, found.c.failures).where(found.c.turn <= per_owner)
    return (
        await connection.execute(statement.order_by(found.c.failures > 0, found.c.next_attempt_at).limit(limit))
    ).all()


async def claim(connection: AsyncConnection, ids: Collection[str], now: datetime, until: datetime) -> list[Row[Any]]:
    """Claim those of the webhooks that no other replica delivers, and return them."""
    mine = update(webhooks).where(webhooks.c.id.in_(sorted(ids)), _free(now)).values(claimed_until=until)
    return list((await connection.execute(mine.returning(webhooks))).all())


def _free(now: datetime) -> ColumnElement[bool]:
    return and_(_ENABLED, webhooks.c.next_attempt_at <= now, webhooks.c.claimed_until <= now)


def _waiting(last: int) -> list[tuple[ColumnElement[bool], list[ColumnElement[bool]]]]:
    """Return the kinds of webhooks, and for each the condition that an event waits: each is an index lookup."""
    waits = and_(webhook_events.c.position > webhooks.c.position, webhook_events.c.position <= last)
    owned = and_(webhook_events.c.account_id == accounts.c.id, accounts.c.owner == webhooks.c.owner)
    one = webhook_events.c.account_id == webhooks.c.account_id
    all_accounts, any_account = webhooks.c.all_accounts, webhooks.c.account_id.is_(None)
    return [
        (and_(all_accounts, any_account), [waits]),
        (and_(all_accounts, ~any_account), [one, waits]),
        (and_(~all_accounts, any_account), [owned, waits]),
        (and_(~all_accounts, ~any_account), [one, accounts.c.id == webhooks.c.account_id, owned, waits]),
    ]


async def oldest_pending(connection: AsyncConnection) -> datetime | None:
    """Return when the oldest event that a healthy webhook waits for was stored; None if none waits."""
    healthy = and_(_ENABLED, webhooks.c.failures == 0)
    oldest = func.min(webhook_events.c.created_at).label("oldest")
    last = await gapless_end(connection)
    parts = [select(oldest).where(healthy, kind, *conditions) for kind, conditions in _waiting(last)]
    found: datetime | None = await connection.scalar(select(func.min(union_all(*parts).subquery().c.oldest)))
    return found


async def count_states(connection: AsyncConnection) -> dict[str, int]:
    """Return the number of webhooks that are healthy, failing and disabled."""
    states = {
        "healthy": and_(_ENABLED, webhooks.c.failures == 0),
        "failing": and_(_ENABLED, webhooks.c.failures > 0),
        "disabled": ~_ENABLED,
    }
    counted = select(*(func.count().filter(state).label(name) for name, state in states.items()))
    row = (await connection.execute(counted.select_from(webhooks))).one()
    return {name: getattr(row, name) for name in states}


async def next_events(
    connection: AsyncConnection, webhook: Row[Any], positions: tuple[int, int], types: Sequence[str] | None, limit: int
) -> Sequence[Row[Any]]:
    """Return the next events of a webhook in order: after the first position, up to the second."""
    after, last = positions
    statement = select(webhook_events).where(webhook_events.c.position > after, webhook_events.c.position <= last)
    if types is not None:
        statement = statement.where(webhook_events.c.type.in_(types))
    if webhook.account_id is not None:
        statement = statement.where(webhook_events.c.account_id == webhook.account_id)
    if not webhook.all_accounts:
        # Checked with each delivery: who is no longer the owner gets nothing more.
        owned = select(accounts.c.id).where(accounts.c.owner == webhook.owner)
        statement = statement.where(webhook_events.c.account_id.in_(owned))
    return (await connection.execute(statement.order_by(webhook_events.c.position).limit(limit))).all()


async def update_claimed(connection: AsyncConnection, webhook: Row[Any], current: int, **values: Any) -> bool:
    """Change a claimed webhook at its current position; return False if it was changed, deleted or claimed again."""
    mine = and_(
        webhooks.c.id == webhook.id,
        webhooks.c.claimed_until == webhook.claimed_until,
        webhooks.c.position == current,
    )
    return (await connection.execute(update(webhooks).where(mine).values(values))).rowcount == 1


async def release(connection: AsyncConnection, webhook: Row[Any], now: datetime) -> None:
    """End a claim, unless it has ended."""
    mine = and_(webhooks.c.id == webhook.id, webhooks.c.claimed_until == webhook.claimed_until)
    await connection.execute(update(webhooks).where(mine).values(claimed_until=now))


async def log_delivery(connection: AsyncConnection, row: dict[str, Any]) -> None:
    """Insert an attempt into the delivery log."""
    await connection.execute(webhook_deliveries.insert().values(row))


async def prune(connection: AsyncConnection, before: datetime) -> None:
    """Delete events and attempts from before a time."""
    await connection.execute(delete(webhook_events).where(webhook_events.c.created_at < before))
    await connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.id < first_id(before)))
