"""Database migrations with Alembic, for any service: `python -m app.migrate` and the service's migrations/env.py."""

import asyncio
from pathlib import Path

from alembic import command, context
from alembic.config import Config
from sqlalchemy import Connection, MetaData, text

from shared.db.database import create_engine, is_postgres, write_transaction
from shared.db.grants import Grants, grant

# Any number: it only has to be the same for all who migrate.
_LOCK = 0x62616E6B
# An index on a large table takes its time.
_SECONDS = 3600


def upgrade(service_folder: Path, database_url: str, *, role: str = "", grants: Grants | None = None) -> None:
    """Bring the database to the newest version; several at once wait for each other.

    `role` is who serves, with these grants and no more; empty where whoever migrates serves as well.
    """
    config = Config()
    config.set_main_option("script_location", str(service_folder / "migrations").replace("%", "%%"))
    config.attributes.update(database_url=database_url, role=role, grants=grants or {})
    command.upgrade(config, "head")


def run_environment(metadata: MetaData) -> None:
    """What a service's migrations/env.py does: run the migrations in one transaction on the configured database."""
    asyncio.run(_run(metadata, **context.config.attributes))


async def _run(metadata: MetaData, *, database_url: str, role: str, grants: Grants) -> None:
    engine = create_engine(database_url, pool_size=4, name="migrate", statement_seconds=_SECONDS)
    try:
        async with write_transaction(engine) as connection:
            if is_postgres(connection):
                # Whoever migrates already may take as long as a migration may; who uses a table may not.
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
