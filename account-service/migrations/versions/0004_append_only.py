"""Have the database refuse any change of what was posted, also to the owner of the tables."""

from alembic import op

from app.storage.triggers import APPEND_ONLY

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the triggers; SQLite, on which one process runs alone, has no triggers for whole statements."""
    if op.get_bind().dialect.name == "postgresql":
        for statement in APPEND_ONLY:
            op.execute(statement)
