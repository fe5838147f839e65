"""Several reversals of a transaction, up to its amount; the previous version refuses a second one."""

import sqlalchemy as sa
from alembic import op

from app.storage.triggers import CHECK_REVERSALS

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Check the sum of reversals by a trigger instead of their number by an index.

    SQLite has only one process that uses it.
    """
    is_reversal = sa.text("reverses IS NOT NULL")
    op.create_index(
        "reversals_by_original", "transactions", ["reverses"], postgresql_where=is_reversal, sqlite_where=is_reversal
    )
    if op.get_bind().dialect.name == "postgresql":
        for statement in CHECK_REVERSALS:
            op.execute(statement)
    op.drop_index("one_reversal_per_original", "transactions")
