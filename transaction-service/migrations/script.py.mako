"""${message}"""

import sqlalchemy as sa
from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    """Change the schema; only expand, so that the running version goes on working."""
    ${upgrades if upgrades else "pass"}
