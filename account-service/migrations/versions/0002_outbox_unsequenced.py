"""Add an index of the outbox rows that have no position yet."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the index."""
    waiting = sa.text("position IS NULL")
    op.create_index("outbox_unsequenced", "outbox", ["id"], postgresql_where=waiting, sqlite_where=waiting)
