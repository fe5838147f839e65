"""Let the database check that posted entries are balanced, whichever version of the service posts them."""

from alembic import op

from app.storage.triggers import CHECK_ENTRIES

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the trigger; SQLite has no statement-level triggers, and only one process uses it."""
    if op.get_bind().dialect.name == "postgresql":
        for statement in CHECK_ENTRIES:
            op.execute(statement)
