"""Record positions of consumed events instead of their ids; replicas of earlier releases keep using their tables."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the table with what earlier releases have consumed."""
    table = op.create_table(
        "consumed_positions",
        sa.Column("source", sa.String(length=64), nullable=False, comment="service that has published the events"),
        sa.Column(
            "ranges",
            sa.Text(),
            nullable=True,
            comment="JSON, [[first, last], …]; null after an upgrade, until the first event with a position",
        ),
        sa.PrimaryKeyConstraint("source"),
    )
    connection = op.get_bind()
    offset = connection.scalar(sa.text("SELECT position FROM consumer_positions WHERE name = 'account-service'"))
    if offset:
        connection.execute(table.insert(), {"source": "account-service", "ranges": json.dumps([[1, offset]])})
    elif connection.scalar(sa.text("SELECT event_id FROM inbox LIMIT 1")) is not None:
        # From a broker: the events have no positions.
        connection.execute(table.insert(), {"source": "account-service", "ranges": None})
