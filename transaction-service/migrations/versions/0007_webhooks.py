"""Webhooks: subscriptions, the events to deliver and the delivery log; the previous version ignores them."""

import sqlalchemy as sa
from alembic import op

from shared.db.database import UtcDateTime

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column(
            "all_accounts",
            sa.Boolean(),
            nullable=False,
            comment="created by an operator: not only the owner's accounts",
        ),
        sa.Column(
            "account_id", sa.Uuid(as_uuid=False), nullable=True, comment="null: all accounts that the owner may see"
        ),
        sa.Column("types", sa.Text(), nullable=True, comment="JSON array of event types; null: all"),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="no event up to here is still to be delivered"),
        sa.Column("secret_version", sa.Integer(), nullable=False),
        sa.Column("secret_rotated_at", UtcDateTime(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False, comment="failed attempts of the next event"),
        sa.Column("failing_since", UtcDateTime(), nullable=True),
        sa.Column("next_attempt_at", UtcDateTime(), nullable=False),
        sa.Column("claimed_until", UtcDateTime(), nullable=False, comment="until then one replica delivers"),
        sa.Column("disabled_reason", sa.String(length=200), nullable=True, comment="null while enabled"),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("webhooks_by_owner", "webhooks", ["owner", "id"])
    op.create_table(
        "webhook_events",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False, comment="the body that is sent"),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("position"),
    )
    op.create_index("webhook_events_by_account", "webhook_events", ["account_id", "position"])
    op.create_index("webhook_events_by_time", "webhook_events", ["created_at"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("webhook_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.String(length=40), nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True, comment="HTTP status; null without a response"),
        sa.Column("error", sa.String(length=200), nullable=True, comment="null if delivered"),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("webhook_deliveries_by_webhook", "webhook_deliveries", ["webhook_id", "id"])
