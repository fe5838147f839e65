"""The migrations make exactly the schema that the models describe."""

import asyncio
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.models import metadata
from shared.database import create_engine
from shared.migrate import upgrade


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": connection.dialect.name == "postgresql"})
    return [found for found in compare_metadata(context, metadata) if "alembic_version" not in str(found)]


def checks(connection: Connection) -> set[str]:
    tables = inspect(connection)
    return {str(check["name"]) for table in metadata.tables for check in tables.get_check_constraints(table)}


def test_migrations_and_models_agree(database_url: str) -> None:
    async def compare() -> None:
        engine: AsyncEngine = create_engine(database_url)
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
            named = {
                str(c.name) for t in metadata.tables.values() for c in t.constraints if isinstance(c, CheckConstraint)
            }
            assert await connection.run_sync(checks) == named
        await engine.dispose()

    folder = Path(__file__).parent.parent
    upgrade(folder, database_url)
    upgrade(folder, database_url)  # again: nothing to do
    asyncio.run(compare())
