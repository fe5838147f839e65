"""`python -m app.verify`: check every invariant of the ledger; exits with 1 and lists the violated ones."""

import asyncio
import sys

from app.settings import AccountSettings
from app.storage.invariants import VIOLATION_QUERIES, broken_invariants
from shared.db.database import create_engine
from shared.runtime.settings import load_or_exit

# Every invariant reads the whole ledger.
_STATEMENT_SECONDS = 3600


async def verify(database_url: str) -> list[str]:
    """Return a line for every violated invariant."""
    engine = create_engine(database_url, name="verify", statement_seconds=_STATEMENT_SECONDS)
    try:
        async with engine.connect() as connection:
            return await broken_invariants(connection)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    broken = asyncio.run(verify(load_or_exit(AccountSettings).database_url))
    print("\n".join(broken) or f"all {len(VIOLATION_QUERIES)} invariants hold")
    sys.exit(1 if broken else 0)
