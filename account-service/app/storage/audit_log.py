"""SQL of the audit log: writes entries with the changes, and reads them together with the actors of transactions."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, Select, case, cast, null, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.audit import AuditEntry, AuditFilter
from app.models import BY_OPERATOR, accounts, audit_log, entries, transactions
from shared.db.database import Write
from shared.ids import first_id

_FIELDS = tuple(field.name for field in fields(AuditEntry))
# Maximum difference between the time in an id and the time of its row.
_ID_TOLERANCE_SECONDS = 60
# As in the predicate of the index; text cannot be negated.
_INDEXED_BY_OPERATOR: ColumnElement[bool] = text(BY_OPERATOR)  # type: ignore[assignment]


def write(audited: Sequence[AuditEntry]) -> Write:
    """Return the write of audit entries."""
    return Write.of(audit_log, _FIELDS, audited)


async def read(connection: AsyncConnection, criteria: AuditFilter, before: str | None, limit: int) -> list[AuditEntry]:
    """Return changes before an id, newest first."""
    logged = select(audit_log).where(*_conditions(audit_log.c, criteria, before))
    if criteria.account_id is not None:
        logged = logged.where(audit_log.c.account_id == criteria.account_id)
    # Each part uses its own index and returns at most one page.
    parts = [
        part.order_by(part.selected_columns.id.desc()).limit(limit) for part in (logged, *_posted(criteria, before))
    ]
    found = union_all(*(select(part.subquery()) for part in parts)).subquery()
    rows = await connection.execute(select(found).order_by(found.c.id.desc()).limit(limit))
    return [AuditEntry(**row) for row in rows.mappings()]


def _posted(criteria: AuditFilter, before: str | None) -> list[Select[Any]]:
    """Return selects of transactions as audit entries; captures are in the log with their holds."""
    row = transactions.c
    cash = select(accounts.c.id).where(accounts.c.kind == "cash")
    columns = {
        "id": row.id,
        "created_at": row.created_at,
        "action": row.type,
        "account_id": case((row.from_account.in_(cash), row.to_account), else_=row.from_account),
        "transaction_id": row.id,
        "hold_id": cast(null(), audit_log.c.hold_id.type),
        "subject": row.subject,
        "scope": row.scope,
        "request_id": row.request_id,
        "event_id": cast(null(), audit_log.c.event_id.type),
    }
    posted = select(*(columns[name].label(name) for name in _FIELDS)).where(
        row.subject.is_not(None), row.type != "capture", *_conditions(row, criteria, before)
    )
    if criteria.account_id is not None:
        touched = select(entries.c.transaction_id).where(entries.c.account_id == criteria.account_id)
        return [posted.where(row.id.in_(touched))]
    if criteria.subject is not None:
        owned = select(accounts.c.id).where(accounts.c.owner == criteria.subject)
        touched = select(entries.c.transaction_id).where(entries.c.account_id.in_(owned))
        return [posted.where(_INDEXED_BY_OPERATOR), posted.where(~_has_operator_scope(), row.id.in_(touched))]
    return [posted]


def _has_operator_scope() -> ColumnElement[bool]:
    return transactions.c.scope.contains("bank:operator")


def _conditions(row: Any, criteria: AuditFilter, before: str | None) -> list[ColumnElement[bool]]:
    action = row.action if "action" in row else row.type
    conditions: list[ColumnElement[bool]] = []
    if criteria.subject is not None:
        conditions.append(row.subject == criteria.subject)
    if criteria.action is not None:
        conditions.append(action == criteria.action)
    # Times also restrict the id, so that the primary key is used.
    if criteria.start is not None:
        conditions += [row.created_at >= criteria.start, row.id >= first_id(criteria.start, -_ID_TOLERANCE_SECONDS)]
    if criteria.end is not None:
        conditions += [row.created_at < criteria.end, row.id < first_id(criteria.end, _ID_TOLERANCE_SECONDS)]
    if before is not None:
        conditions.append(row.id < before)
    return conditions
