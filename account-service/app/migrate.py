"""`python -m app.migrate`: migrate the database of account-service to the latest revision."""

import sys
from pathlib import Path

from app.settings import AccountSettings
from app.storage.grants import GRANTS
from shared.db.migrate import upgrade
from shared.runtime.settings import load_or_exit

if __name__ == "__main__":
    settings = load_or_exit(AccountSettings)
    upgrade(Path(__file__).parent.parent, settings.database_url, role=settings.database_role, grants=GRANTS)
    print("migrations: the database is up to date", file=sys.stderr)
