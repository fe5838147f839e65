"""History, flags, inbox and outbox."""

import sqlalchemy as sa
from alembic import op

from shared.db.database import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the schema."""
    op.create_table(
        "accounts",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("account_number", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=140), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("accounts_by_owner", "accounts", ["owner", "id"], unique=False)
    op.create_table(
        "consumer_positions",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("event_id", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.String(length=1000), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_table(
        "entries",
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("transaction_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column(
            "seq", sa.BigInteger(), nullable=True, comment="null where the transaction was refused and nothing moved"
        ),
        sa.Column("counterparty", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("amount", sa.BigInteger(), nullable=False, comment="negative where money leaves the account"),
        sa.Column("balance_after", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("(seq IS NULL) = (balance_after IS NULL)", name="posted_has_balance"),
        sa.PrimaryKeyConstraint("account_id", "transaction_id"),
        sa.UniqueConstraint("account_id", "seq", name="one_entry_per_seq"),
    )
    op.create_index("entries_by_time", "entries", ["account_id", "created_at"], unique=False)
    op.create_table(
        "flags",
        sa.Column(
            "id",
            sa.Uuid(as_uuid=False),
            nullable=False,
            comment="id of the event too; follows from rule, account and occurrence",
        ),
        sa.Column("transaction_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("rule", sa.String(length=20), nullable=False),
        sa.Column(
            "occurrence",
            sa.String(length=40),
            nullable=False,
            comment="what keeps a rule from finding the same thing twice",
        ),
        sa.Column("score", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(length=6), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("action IN ('review', 'freeze')", name="known_action"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("rule", "account_id", "occurrence", name="one_flag_per_occurrence"),
    )
    op.create_index("flags_by_time", "flags", ["created_at", "id"], unique=False)
    op.create_table(
        "inbox",
        sa.Column("event_id", sa.String(length=255), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column(
            "position", sa.BigInteger(), nullable=True, comment="position of the row's last event; null until committed"
        ),
        sa.Column("size", sa.Integer(), nullable=False, comment="number of events"),
        sa.Column("events", sa.LargeBinary(), nullable=False, comment="JSON array of CloudEvents"),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("position"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "outbox_progress",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "transactions",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("type", sa.String(length=10), nullable=False),
        sa.Column("status", sa.String(length=7), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=True, comment="why it was refused"),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("from_account", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("to_account", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("reference", sa.String(length=140), nullable=True),
        sa.Column("reverses", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("(status = 'refused') = (code IS NOT NULL)", name="refused_has_code"),
        sa.CheckConstraint("status IN ('posted', 'refused')", name="known_status"),
        sa.PrimaryKeyConstraint("id"),
    )
