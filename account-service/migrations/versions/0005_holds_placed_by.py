"""Record whether the owner of the account or an operator placed a hold.

It is null in existing holds, and in those that the previous version places while it still runs. Such a hold is treated
as placed by an operator: its owner has to wait for an operator or for its expiry.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column without a default, so that no row is rewritten."""
    op.add_column(
        "holds",
        sa.Column(
            "placed_by",
            sa.String(length=8),
            nullable=True,
            comment="owner or operator; null if the placing version did not record it",
        ),
    )
