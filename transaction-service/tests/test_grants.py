"""The privileges of the database role."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.models import metadata
from app.storage.grants import GRANTS

_INSUFFICIENT_PRIVILEGE = "42501"
_DELETABLE = ("transactions", "entries", "outbox", "webhooks", "webhook_events", "webhook_deliveries")
_FORBIDDEN = [
    "UPDATE entries SET amount = 1",
    "UPDATE transactions SET amount = 1",
    "UPDATE accounts SET owner = 'mallory'",
    "UPDATE flags SET action = 'review'",
    "UPDATE outbox SET events = '[]'",
    *(f"DELETE FROM {table}" for table in GRANTS if table not in _DELETABLE),
    *(f"TRUNCATE {table}" for table in ("flags", "outbox", "dead_letters", "consumer_positions")),
    *(f"DROP TABLE {table}" for table in GRANTS),
    "CREATE TABLE mine (id int)",
    "SELECT setval('outbox_id_seq', 1)",
    "SET ROLE bank",
]


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """SQLite has no roles."""
    return postgres_url


def test_every_table_has_grants():
    assert set(GRANTS) == set(metadata.tables)


@pytest.mark.parametrize("statement", _FORBIDDEN)
async def test_the_database_role_lacks_unneeded_privileges(engine: AsyncEngine, statement: str):
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError) as refused:
            await connection.execute(text(statement))
    assert refused.value.orig.sqlstate == _INSUFFICIENT_PRIVILEGE  # type: ignore[union-attr]
