"""What a service's own role may do in its database: what GRANTS of the service lists, and nothing besides.

The tables belong to another role, as which migrations run. So a service that is taken over cannot drop a table, take a
trigger off or change what was posted.
"""

from collections.abc import Mapping

from sqlalchemy import Connection

# By table: the privileges, as GRANT wants them.
Grants = Mapping[str, str]


def statements(role: str, grants: Grants) -> list[str]:
    """Return what gives a role exactly these privileges, whatever it had before; it has to be run in one transaction.

    The version before runs on with them: take away only what it does not need either.
    """
    return [
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f'GRANT USAGE ON SCHEMA public TO "{role}"',
        *(f'REVOKE ALL ON ALL {kind} IN SCHEMA public FROM "{role}"' for kind in ("TABLES", "SEQUENCES")),
        *(f'GRANT {privileges} ON {table} TO "{role}"' for table, privileges in grants.items()),
        # Numbers of rows; who may insert none can do nothing with them.
        f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "{role}"',
    ]


def grant(connection: Connection, role: str, grants: Grants) -> None:
    """Give a role exactly these privileges; done by the owner of the tables, in its transaction."""
    for statement in statements(role, grants):
        connection.exec_driver_sql(statement)
