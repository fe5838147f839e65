"""HTTP endpoints of holds, the audit log and other services, and what routes have in common; see also `app.api`."""
