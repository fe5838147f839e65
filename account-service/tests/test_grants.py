"""The service's role has only the privileges it needs, and posted rows are immutable for every role."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.models import metadata
from app.service import AccountService
from app.storage.grants import GRANTS
from app.storage.triggers import VIOLATION
from shared.db.migrate import upgrade
from shared.testing.fixtures import opened, served_url
from tests.support import ledger_request, open_account, transfer

_INSUFFICIENT_PRIVILEGE = "42501"
# Each table has at least one row.
_FORBIDDEN = [
    "UPDATE audit_log SET subject = 'nobody'",
    "DELETE FROM audit_log",
    *(f"UPDATE {table} SET amount = amount + 1" for table in ("transactions", "entries")),
    "UPDATE holds SET placed_by = 'owner'",
    "UPDATE entries SET balance_after = 0",
    "UPDATE transactions SET reference = 'other'",
    "UPDATE outbox SET events = '[]'",
    "UPDATE accounts SET owner = 'mallory'",
    "UPDATE accounts SET kind = 'cash'",
    "UPDATE idempotency_keys SET body = ''",
    *(f"DELETE FROM {table}" for table in GRANTS if table not in ("idempotency_keys", "outbox")),
    *(f"TRUNCATE {table} CASCADE" for table in GRANTS),
    *(f"DROP TABLE {table} CASCADE" for table in GRANTS),
    "ALTER TABLE entries DISABLE TRIGGER ALL",
    "ALTER TABLE accounts DROP CONSTRAINT balance_within_overdraft",
    "CREATE TABLE mine (id int)",
    "CREATE OR REPLACE FUNCTION check_entries() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "SELECT setval('outbox_id_seq', 1)",
    "SET session_replication_role = replica",
    "SET ROLE bank",
    "CREATE ROLE mallory",
    "COPY entries TO PROGRAM 'true'",
]


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """SQLite has no roles."""
    return postgres_url


async def sqlstate_of(engine: AsyncEngine, statement: str) -> str:
    """Return the SQLSTATE of a rejected statement; empty if it succeeds."""
    async with engine.connect() as connection:
        try:
            await connection.execute(text(statement))
        except DBAPIError as error:
            return str(error.orig.sqlstate)  # type: ignore[union-attr]
    return ""


def test_every_table_has_grants():
    assert set(GRANTS) == set(metadata.tables)


async def test_the_service_role_has_no_other_privileges(service: AccountService, engine: AsyncEngine):
    source, target = await open_account(service, money=100), await open_account(service)
    assert (await service.execute(ledger_request(transfer(source, target, 1)))).status == 201
    results = {statement: await sqlstate_of(engine, statement) for statement in _FORBIDDEN}
    assert {statement: state for statement, state in results.items() if state != _INSUFFICIENT_PRIVILEGE} == {}


@pytest.mark.parametrize("table", ["transactions", "entries", "audit_log"])
async def test_posted_rows_are_immutable_for_the_owner_as_well(owner: AsyncEngine, table: str):
    column = "subject" if table == "audit_log" else "amount"
    for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
        assert await sqlstate_of(owner, statement) == VIOLATION, statement


async def test_migrations_reset_privileges(database_url: str):
    folder = Path(__file__).parent.parent

    async def rights() -> set[tuple[str, str]]:
        query = """SELECT table_name, privilege_type FROM information_schema.role_column_grants
            WHERE grantee = 'served' UNION SELECT table_name, privilege_type
            FROM information_schema.role_table_grants WHERE grantee = 'served'"""
        async for engine in opened(database_url):
            async with engine.connect() as connection:
                return {(row.table_name, row.privilege_type) for row in await connection.execute(text(query))}
        raise AssertionError

    async def widen() -> None:
        async for engine in opened(database_url):
            async with engine.begin() as connection:
                await connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO served"))

    await asyncio.to_thread(upgrade, folder, database_url, role="served", grants=GRANTS)
    first = await rights()
    assert ("entries", "INSERT") in first and ("entries", "UPDATE") not in first
    await widen()
    assert ("entries", "UPDATE") in await rights()
    await asyncio.to_thread(upgrade, folder, database_url, role="served", grants=GRANTS)
    assert await rights() == first
    async for engine in opened(served_url(database_url)):
        assert await sqlstate_of(engine, "SELECT version_num FROM alembic_version") == _INSUFFICIENT_PRIVILEGE
