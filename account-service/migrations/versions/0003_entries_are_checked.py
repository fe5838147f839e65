"""Have the database check that what is posted is double entry, whichever version of the service posts it."""

from alembic import op

from app.storage.triggers import STATEMENTS

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the trigger; SQLite, on which one process runs alone, has no triggers for whole statements."""
    if op.get_bind().dialect.name == "postgresql":
        for statement in STATEMENTS:
            op.execute(statement)
