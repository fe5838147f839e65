"""HTTP endpoints of the audit log and internal endpoints; the others are in `app.api`."""
