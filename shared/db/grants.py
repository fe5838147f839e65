"""Privileges of a service's database role: exactly those listed in the GRANTS of the service.

The tables are owned by the role that runs migrations, so a compromised service cannot drop tables, remove triggers or
change posted entries.
"""

from collections.abc import Mapping

from sqlalchemy import Connection

# Privileges by table, in the syntax of GRANT.
Grants = Mapping[str, str]


def statements(role: str, grants: Grants) -> list[str]:
    """Return the statements that set a role's privileges to exactly these; execute them in one database transaction.

    The previous version keeps running with them: only revoke what it does not need either.
    """
    return [
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f'GRANT USAGE ON SCHEMA public TO "{role}"',
        *(f'REVOKE ALL ON ALL {kind} IN SCHEMA public FROM "{role}"' for kind in ("TABLES", "SEQUENCES")),
        *(f'GRANT {privileges} ON {table} TO "{role}"' for table, privileges in grants.items()),
        # Sequences of row ids; harmless without the privilege to insert rows.
        f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "{role}"',
    ]


def grant(connection: Connection, role: str, grants: Grants) -> None:
    """Set a role's privileges to exactly these; called by the owner of the tables in its database transaction."""
    for statement in statements(role, grants):
        connection.exec_driver_sql(statement)
