"""Database migrations with Alembic, for any service: `python -m app.migrate` and the service's migrations/env.py."""

import asyncio
from pathlib import Path

from alembic import command, context
from alembic.config import Config
from sqlalchemy import Connection, MetaData, text

from shared.db.database import create_engine, is_postgres, write_transaction
from shared.db.grants import Grants, grant

# Arbitrary, but the same in all processes that migrate.
_LOCK = 0x62616E6B
# Creating an index on a large table is slow.
_STATEMENT_TIMEOUT_SECONDS = 3600


def upgrade(service_folder: Path, database_url: str, *, role: str = "", grants: Grants | None = None) -> None:
    """Upgrade the database to the latest revision; concurrent calls wait for each other.

    `role` is the role of the running service and gets exactly these grants; empty: the migrating role itself.
    """
    config = Config()
    config.set_main_option("script_location", str(service_folder / "migrations").replace("%", "%%"))
    config.attributes.update(database_url=database_url, role=role, grants=grants or {})
    command.upgrade(config, "head")


def run_environment(metadata: MetaData) -> None:
    """Run the migrations in one database transaction on the configured database; called by migrations/env.py."""
    asyncio.run(_run(metadata, **context.config.attributes))


async def _run(metadata: MetaData, *, database_url: str, role: str, grants: Grants) -> None:
    engine = create_engine(database_url, pool_size=4, name="migrate", statement_seconds=_STATEMENT_TIMEOUT_SECONDS)
    try:
        async with write_transaction(engine) as connection:
            if is_postgres(connection):
                # Wait for a running migration without a limit, but not for locks that transactions hold on tables.
                await connection.execute(text("SET LOCAL lock_timeout = 0"))
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                await connection.execute(text("SET LOCAL lock_timeout TO DEFAULT"))
            await connection.run_sync(_migrate, metadata)
            if role:
                await connection.run_sync(grant, role, grants)
    finally:
        await engine.dispose()


def _migrate(connection: Connection, metadata: MetaData) -> None:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=False)
    context.run_migrations()
