"""Groups of transactions; the previous version ignores them while it still runs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column without a default, so that no row is rewritten, and an index of the rows that have a group."""
    comment = "group that was posted all or none; null for a single transaction"
    op.add_column("transactions", sa.Column("group_id", sa.Uuid(as_uuid=False), nullable=True, comment=comment))
    has_group = sa.text("group_id IS NOT NULL")
    op.create_index(
        "transactions_by_group", "transactions", ["group_id"], postgresql_where=has_group, sqlite_where=has_group
    )
