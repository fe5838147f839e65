"""Accounts, ledger, holds, idempotency keys and outbox."""

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
        sa.Column("account_number", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=140), nullable=True),
        sa.Column(
            "kind",
            sa.String(length=8),
            nullable=False,
            comment="customer, or cash: counterparty of deposits and withdrawals, one per currency",
        ),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False, comment="seq of the account's last entry"),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("held >= 0 AND (kind = 'cash' OR held <= balance)", name="held_is_covered"),
        sa.CheckConstraint("kind = 'cash' OR balance >= 0", name="customer_balance_not_negative"),
        sa.CheckConstraint("kind IN ('customer', 'cash')", name="known_kind"),
        sa.CheckConstraint("status IN ('active', 'frozen', 'closed')", name="known_status"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("account_number"),
    )
    op.create_index("accounts_by_owner", "accounts", ["owner", "id"], unique=False)
    op.create_index(
        "one_cash_account_per_currency",
        "accounts",
        ["currency"],
        unique=True,
        postgresql_where=sa.text("kind = 'cash'"),
        sqlite_where=sa.text("kind = 'cash'"),
    )
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
        "idempotency_keys",
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(length=16), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "key"),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
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
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("from_account", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("to_account", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("reference", sa.String(length=140), nullable=True),
        sa.Column("reverses", sa.Uuid(as_uuid=False), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("amount > 0", name="amount_is_positive"),
        sa.CheckConstraint("from_account <> to_account", name="two_accounts"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "one_reversal_per_original",
        "transactions",
        ["reverses"],
        unique=True,
        postgresql_where=sa.text("reverses IS NOT NULL"),
        sqlite_where=sa.text("reverses IS NOT NULL"),
    )
    op.create_table(
        "entries",
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("transaction_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False, comment="negative for a debit"),
        sa.Column("balance_after", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("seq > 0", name="seq_starts_at_one"),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["accounts.id"],
        ),
        sa.ForeignKeyConstraint(
            ["transaction_id"],
            ["transactions.id"],
        ),
        sa.PrimaryKeyConstraint("account_id", "seq"),
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("captured_amount", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("transaction_id", sa.Uuid(as_uuid=False), nullable=True, comment="transaction of the capture"),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("status IN ('active', 'captured', 'voided', 'expired')", name="known_hold_status"),
        sa.CheckConstraint("amount > 0", name="hold_is_positive"),
        sa.CheckConstraint("captured_amount BETWEEN 0 AND amount", name="capture_within_hold"),
        sa.ForeignKeyConstraint(
            ["account_id"],
            ["accounts.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "active_holds_by_expiry", "holds", ["expires_at"], unique=False, postgresql_where=sa.text("status = 'active'")
    )
