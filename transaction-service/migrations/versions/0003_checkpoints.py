"""Remember up to where the entries of an account have been checked."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "checkpoints",
        sa.Column("account_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False, comment="entries 1 to seq are all here"),
        sa.Column("balance", sa.BigInteger(), nullable=False, comment="what they add up to"),
        sa.PrimaryKeyConstraint("account_id", "seq"),
    )
