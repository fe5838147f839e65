"""Several captures of a hold, and lists of holds.

A hold that was captured in part keeps its original amount in the new column, so that the previous version can still
capture and void it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column without a default, so that no row is rewritten, and the indexes."""
    op.add_column(
        "holds",
        sa.Column(
            "placed_amount",
            sa.BigInteger(),
            nullable=True,
            comment="amount as placed, if a part was captured while the hold was active",
        ),
    )
    op.create_index("holds_by_account", "holds", ["account_id", "id"])
    op.create_index("holds_by_account_and_status", "holds", ["account_id", "status", "id"])
    has_hold = sa.text("hold_id IS NOT NULL")
    op.create_index(
        "audit_log_by_hold", "audit_log", ["hold_id", "id"], postgresql_where=has_hold, sqlite_where=has_hold
    )
