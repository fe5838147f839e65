"""Record whether the owner of the account or an operator placed a hold.

It stays null in holds that are there already, and in those that the version before places while it still runs. Nobody
can tell who placed them, so the safe answer is an operator: their owners wait for an operator, or for their end.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column; without a default, so that no row is written."""
    op.add_column(
        "holds",
        sa.Column(
            "placed_by",
            sa.String(length=8),
            nullable=True,
            comment="owner or operator; null where a version placed it that did not record it",
        ),
    )
