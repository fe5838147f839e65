"""Overdraft and daily debit limits, and metadata; the previous version does not count debits while it still runs.

Replaces the checks that customers' balances are not negative and cover their holds. PostgreSQL reads the table once for
the new ones, without rewriting it.
"""

import sqlalchemy as sa
from alembic import op

from app.storage.triggers import BALANCE_WITHIN_OVERDRAFT, HELD_IS_COVERED
from shared.db.database import UtcDateTime

revision = "0011"
down_revision = "0010"

_NOT_NEGATIVE = "kind = 'cash' OR balance >= 0"
_HELD_WITHIN_BALANCE = "held >= 0 AND (kind = 'cash' OR held <= balance)"


def upgrade() -> None:
    """Add the columns without defaults, so that no row is rewritten, and replace the checks."""
    for column in (
        sa.Column("overdraft_limit", sa.BigInteger(), nullable=True, comment="null if it was never set"),
        sa.Column("daily_debit_limit", sa.BigInteger(), nullable=True, comment="null without a limit"),
        sa.Column(
            "debited",
            sa.BigInteger(),
            nullable=True,
            comment="debits since debited_since that count towards the daily limit",
        ),
        sa.Column(
            "debited_since",
            UtcDateTime(),
            nullable=True,
            comment="start of the UTC day, or when the daily limit was set",
        ),
    ):
        op.add_column("accounts", column)
    for table in ("accounts", "transactions"):
        op.add_column(
            table, sa.Column("metadata", sa.Text(), nullable=True, comment="JSON object of texts; null without")
        )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE accounts DROP CONSTRAINT customer_balance_not_negative, DROP CONSTRAINT held_is_covered"
        )
        op.execute(
            f"ALTER TABLE accounts ADD CONSTRAINT balance_within_overdraft CHECK ({BALANCE_WITHIN_OVERDRAFT}),"
            f" ADD CONSTRAINT held_is_covered CHECK ({HELD_IS_COVERED})"
        )
    else:
        _replace_checks_of_sqlite()


def _replace_checks_of_sqlite() -> None:
    """Change the checks in the table's definition, as SQLite documents it for ALTER TABLE.

    A copy of the table could not replace it, because entries and holds refer to it.
    """
    connection = op.get_bind()
    version = connection.scalar(sa.text("PRAGMA schema_version"))
    definition = connection.scalar(sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'accounts'"))
    for old, new in (
        ("customer_balance_not_negative", "balance_within_overdraft"),
        (f"({_NOT_NEGATIVE})", f"({BALANCE_WITHIN_OVERDRAFT})"),
        (f"({_HELD_WITHIN_BALANCE})", f"({HELD_IS_COVERED})"),
    ):
        definition = definition.replace(old, new)
    op.execute("PRAGMA writable_schema = ON")
    changed = sa.text("UPDATE sqlite_master SET sql = :sql WHERE type = 'table' AND name = 'accounts'")
    connection.execute(changed, {"sql": definition})
    op.execute(f"PRAGMA schema_version = {version + 1}")
    op.execute("PRAGMA writable_schema = OFF")
