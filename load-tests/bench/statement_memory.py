"""Measure the memory of a long statement: PYTHONPATH=transaction-service:. python load-tests/bench/statement_memory.py

Streams the statement of an account with many entries from SQLite, without HTTP, as CSV and as CAMT.053. Prints by how
much the resident memory grew after the first tenth of the document, and exits 1 if it grew by more than the limit.

    --entries N   number of entries (1000000)
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from app.application.reconciler import Reconciler
from app.formats.base import Format, Options
from app.formats.camt053 import CamtFormat
from app.formats.csv_format import CsvFormat
from app.http.streaming import StreamLimiter
from app.ledger_client import LedgerClient
from app.models import accounts, entries, metadata, transactions
from app.service import TransactionService
from app.statements import PAGE_SIZE
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db.database import create_engine
from shared.http.auth import OPERATOR, Caller
from shared.testing.fixtures import create_tables

_MAX_GROWTH_MIB = 16.0
_ROWS_PER_INSERT = 5000
_CALLER = Caller("bench", frozenset({OPERATOR}))
_ACCOUNT, _CASH = str(UUID(int=1)), str(UUID(int=2))
_START = datetime(2026, 11, 1, tzinfo=UTC)
_PERIOD = timedelta(days=30)


def _rows(first: int, last: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield transactions and entries of the account."""
    for seq in range(first, last):
        id_, time_ = str(UUID(int=seq + (1 << 64))), _START + timedelta(seconds=seq)
        transaction = {
            **{"id": id_, "type": "deposit", "status": "posted", "amount": 1, "currency": "USD", "created_at": time_},
            **{"from_account": _CASH, "to_account": _ACCOUNT, "reference": f"salary {seq} für Zürich"},
        }
        entry = {
            **{"account_id": _ACCOUNT, "transaction_id": id_, "seq": seq, "counterparty": _CASH, "amount": 1},
            **{"balance_after": seq, "created_at": time_},
        }
        yield transaction, entry


async def _fill(engine: AsyncEngine, count: int) -> None:
    account = {"id": _ACCOUNT, "owner": "bench", "currency": "USD", "account_number": "1".rjust(16, "0")}
    async with engine.begin() as connection:
        await connection.execute(insert(accounts), account)
        for first in range(1, count + 1, _ROWS_PER_INSERT):
            rows = list(_rows(first, min(first + _ROWS_PER_INSERT, count + 1)))
            await connection.execute(insert(transactions), [transaction for transaction, _ in rows])
            await connection.execute(insert(entries), [entry for _, entry in rows])


def _resident_mib() -> float:
    """Return the resident memory now; the maximum that the kernel keeps is that of filling the tables."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


async def _measure(service: TransactionService, form: type[Format], count: int) -> bool:
    """Stream one statement; print the growth of the peak, and return whether it is within the limit."""
    statement = await service.statement(_CALLER, _ACCOUNT, _START, _START + _PERIOD)
    parts = StreamLimiter().parts(
        statement,
        form(statement, Options("Bank", _START + _PERIOD)),
        partial(service.next_lines, statement),
        partial(service.totals, statement),
    )
    started, size, number, peak, early_peak = time.perf_counter(), 0, 0, 0.0, 0.0
    async for part in parts:
        size, number, peak = size + len(part), number + 1, max(peak, _resident_mib())
        if number == max(1, count // PAGE_SIZE // 10):
            early_peak = peak
    growth = peak - early_peak
    is_met = growth <= _MAX_GROWTH_MIB
    print(
        f"{form.media_type}: {count} entries, {size / 2**20:.0f} MiB in {time.perf_counter() - started:.0f} s; "
        f"memory grew by {growth:.1f} MiB, at most {_MAX_GROWTH_MIB:.0f} MiB: {'met' if is_met else 'missed'}"
    )
    return is_met


async def _run(url: str, count: int) -> bool:
    await create_tables(url, metadata)
    engine = create_engine(url)
    # Nothing listens there: a statement does without account-service.
    ledger = LedgerClient("http://127.0.0.1:9", "")
    try:
        await _fill(engine, count)
        service = TransactionService(engine, ledger, cast(Reconciler, None))
        return all([await _measure(service, form, count) for form in (CsvFormat, CamtFormat)])
    finally:
        await ledger.close()
        await engine.dispose()


def main() -> int:
    """Measure, and return 0 only if the limit is met."""
    parser = argparse.ArgumentParser(description="Measure the memory of a long statement.")
    parser.add_argument("--entries", type=int, default=1_000_000)
    count = parser.parse_args().entries
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(_run(f"sqlite+aiosqlite:///{folder}/history.db", count)) else 1


if __name__ == "__main__":
    sys.exit(main())
