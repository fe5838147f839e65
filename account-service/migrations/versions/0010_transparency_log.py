"""Tables of the transparency log; the sealer adds what was posted before."""

import sqlalchemy as sa
from alembic import op

from app.storage.triggers import TRANSPARENCY_LOG, append_only
from shared.db.database import UtcDateTime

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create the tables, empty.

    SQLite has no statement-level triggers, and only one process uses it.
    """
    op.create_table(
        "ledger_leaves",
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False, comment="from 0, without gaps"),
        sa.Column("transaction_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column(
            "event_position",
            sa.BigInteger(),
            nullable=False,
            comment="position of the transaction's event in the outbox",
        ),
        sa.Column("salt", sa.LargeBinary(length=16), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False, comment="digests of the transaction and its entries"),
        sa.PrimaryKeyConstraint("position"),
        sa.UniqueConstraint("transaction_id"),
    )
    op.create_table(
        "ledger_nodes",
        sa.Column("level", sa.SmallInteger(), autoincrement=False, nullable=False, comment="8, 16, 24 …"),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column(
            "hash",
            sa.LargeBinary(length=32),
            nullable=False,
            comment="root of the complete subtree of 2^level leaves",
        ),
        sa.PrimaryKeyConstraint("level", "index"),
    )
    op.create_table(
        "ledger_roots",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False, comment="UUIDv7: ids sort by time"),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="number of leaves"),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=False, comment="signed note"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("size"),
    )
    op.create_table(
        "ledger_keys",
        sa.Column(
            "public_key", sa.String(length=512), nullable=False, comment="verifier key, also after it was replaced"
        ),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("public_key"),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table in TRANSPARENCY_LOG:
            op.execute(append_only(table))
