"""`python -m app.migrate`: bring the database of account-service to the newest version."""

import sys
from pathlib import Path

from app.settings import AccountSettings
from shared.migrate import upgrade
from shared.settings import load_or_exit

if __name__ == "__main__":
    upgrade(Path(__file__).parent.parent, load_or_exit(AccountSettings).database_url)
    print("migrations: the database is up to date", file=sys.stderr)
