"""What transaction-service's own role may do in its database (shared/db/grants.py)."""

from shared.db.grants import Grants

# The history is made from events and may be made again; a row of it is never changed.
_PROJECTION = "SELECT, INSERT, TRUNCATE"

GRANTS: Grants = {
    "accounts": _PROJECTION,
    "transactions": _PROJECTION,
    "entries": _PROJECTION,
    "checkpoints": _PROJECTION,
    "inbox": _PROJECTION,
    "flags": "SELECT, INSERT",
    "outbox": "SELECT, INSERT, UPDATE (position)",
    "outbox_progress": "SELECT, INSERT, UPDATE (position)",
    "consumer_positions": "SELECT, INSERT, UPDATE (position)",
    "dead_letters": "SELECT, INSERT",
}
