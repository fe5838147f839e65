"""Vacuum tables whose old rows are deleted before a fifth of them is dead (docs/reports/2026-11-29-storage.md)."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Start autovacuum after three percent of dead rows; below two percent, PostgreSQL leaves the indexes out."""
    if op.get_bind().dialect.name == "postgresql":
        for table in ("idempotency_keys", "outbox"):
            op.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.03)")
