"""`python -m app.migrate`: migrate the database of transaction-service to the latest version."""

import sys
from pathlib import Path

from app.settings import TransactionSettings
from app.storage.grants import GRANTS
from shared.db.migrate import upgrade
from shared.runtime.settings import load_or_exit

if __name__ == "__main__":
    settings = load_or_exit(TransactionSettings)
    upgrade(Path(__file__).parent.parent, settings.database_url, role=settings.database_role, grants=GRANTS)
    print("migrations: the database is up to date", file=sys.stderr)
