"""Metadata of transactions; the previous version ignores them while it still runs."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column without a default, so that no row is rewritten."""
    op.add_column(
        "transactions",
        sa.Column("metadata", sa.Text(), nullable=True, comment="JSON object of texts, names in order; null without"),
    )
