"""Database access: engine, transactions, migrations and grants, for PostgreSQL and SQLite."""
