"""Storage: all SQL, and the privileges of the database role; the tables are in app.models."""
