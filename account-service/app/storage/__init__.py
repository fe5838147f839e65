"""Storage: SQL, database triggers and privileges; the tables are in `app.models`."""
