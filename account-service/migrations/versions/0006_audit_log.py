"""Record the actor of each change; the previous version records nothing while it still runs."""

import sqlalchemy as sa
from alembic import op

from app.storage.triggers import append_only
from shared.db.database import UtcDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table and columns; no row is rewritten.

    SQLite has no statement-level triggers, and only one process uses it.
    """
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False, comment="UUIDv7: ids sort by time"),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("action", sa.String(length=10), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("transaction_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("hold_id", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column(
            "scope",
            sa.String(length=255),
            nullable=False,
            comment="scopes of the token that begin with bank:; system for the bank itself",
        ),
        sa.Column("request_id", sa.String(length=128), nullable=True),
        sa.Column(
            "event_id", sa.String(length=255), nullable=True, comment="event that caused a change by the bank itself"
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("audit_log_by_account", "audit_log", ["account_id", "id"])
    op.create_index("audit_log_by_subject", "audit_log", ["subject", "id"])
    actor = (
        sa.Column(
            "subject",
            sa.String(length=255),
            nullable=True,
            comment="subject of the actor; null if the posting version did not record it",
        ),
        sa.Column("scope", sa.String(length=255), nullable=True, comment="scopes of the token that begin with bank:"),
        sa.Column("request_id", sa.String(length=128), nullable=True),
    )
    for column in actor:
        op.add_column("transactions", column)
    by_operator = sa.text("scope LIKE '%bank:operator%'")
    op.create_index(
        "transactions_by_operator",
        "transactions",
        ["subject", "id"],
        postgresql_where=by_operator,
        sqlite_where=by_operator,
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(append_only("audit_log"))
