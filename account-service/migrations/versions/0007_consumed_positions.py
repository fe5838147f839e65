"""Record the positions of consumed events; replicas of earlier releases keep using their table."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the table with what earlier releases have consumed from a feed.

    Findings from a broker are read once more from the feed: their idempotency keys keep them from having an effect.
    """
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
    offset = connection.scalar(sa.text("SELECT position FROM consumer_positions WHERE name = 'transaction-service'"))
    if offset:
        connection.execute(table.insert(), {"source": "transaction-service", "ranges": json.dumps([[1, offset]])})
