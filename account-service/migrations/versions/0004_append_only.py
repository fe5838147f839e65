"""Let the database reject changes of posted rows, by the owner of the tables as well."""

from alembic import op

from app.storage.triggers import APPEND_ONLY

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the triggers; SQLite has no statement-level triggers, and only one process uses it."""
    if op.get_bind().dialect.name == "postgresql":
        for statement in APPEND_ONLY:
            op.execute(statement)
