"""Measure bytes on disk per transfer, and whether tables whose old rows are deleted keep their size.

    make drills DRILL=storage [ARGS="--transfers 10000 --rows-per-hour 20000"]

1. Transfers on a local stack with PostgreSQL and NATS: the growth of every table, with its indexes, and of the stream.
2. Idempotency keys and an outbox with one day of retention: after two days, three more go by. Each hour inserts its
   rows and purges as the jobs do; the times of the rows move, not the clock. At 1,000/s an hour has 3,600,000 keys; the
   drill has fewer, in proportion. Autovacuum is off; VACUUM runs when the table's parameters would start it.
3. Changes of random accounts, as the group commit writes them: the share that needs no index entry (HOT updates).

2 runs with PostgreSQL's default parameters, too, for comparison. Exits 1 when a threshold is missed.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
from harness.client import eventually, usd
from harness.commands import finish
from harness.local_stack import LocalBank
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.db.database import create_engine, write_transaction
from shared.http import idempotency
from shared.messaging.outbox import Outbox
from shared.messaging.streams import STREAM
from shared.testing import lab_keys
from shared.testing.local_stack import ACCOUNT, TRANSACTION, LocalStack, Setting
from shared.testing.paths import ROOT
from shared.testing.ports import free_port
from shared.testing.postgres import PostgresNotInstalled, PostgresServer
from shared.testing.processes import Process, stop_all
from shared.testing.progress import Progress
from shared.testing.thresholds import Threshold

# Both databases and the stream, per transfer, before events travelled in batches.
FORMER_BYTES = 1400 + 1100 + 1700
MAX_SHARE = 0.6
MAX_GROWTH = 0.03
MIN_HOT_SHARE = 0.9
_CLIENTS, _CUSTOMERS = 32, 200
_WARM_UP_DAYS, _DAYS = 2, 3
_RETENTION = timedelta(days=1)
_ROWS_PER_PURGE = 10_000
_DEFAULT_SCALE_FACTOR, _VACUUM_THRESHOLD = 0.2, 50
_START = datetime(2026, 11, 1, tzinfo=UTC)
_SIZES = """SELECT relname, pg_total_relation_size(oid) FROM pg_class
    WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"""
_SCALE_FACTOR = """SELECT coalesce((SELECT option_value FROM pg_options_to_table(
    (SELECT reloptions FROM pg_class WHERE relname = '{table}'))
    WHERE option_name = 'autovacuum_vacuum_scale_factor'), '')"""
_INSERT_KEYS = """INSERT INTO idempotency_keys (subject, key, request_hash, status, body, created_at)
    SELECT 'subject ' || n % 1000, gen_random_uuid(), decode(md5(n::text), 'hex'), 201,
    decode(repeat(md5(n::text), 28), 'hex'), CAST(:first AS timestamptz) + random() * CAST(:period AS interval)
    FROM generate_series(1, :rows) n"""
_INSERT_EVENTS = """INSERT INTO outbox (size, events, created_at)
    SELECT 2, decode(repeat(md5(n::text), 80), 'hex'),
    CAST(:first AS timestamptz) + n * CAST(:period AS interval) / :rows FROM generate_series(1, :rows) n"""
# As the relay does, in another database transaction: it leaves a dead version of the row.
_ASSIGN_POSITIONS = "UPDATE outbox SET position = 2 * id WHERE position IS NULL"
_INSERT_ACCOUNTS = """INSERT INTO accounts
    (id, account_number, owner, kind, currency, status, balance, held, seq, created_at, updated_at)
    SELECT lpad(to_hex(n), 32, '0')::uuid, lpad(n::text, 16, '0'), 'owner ' || n % 1000, 'customer', 'USD', 'active',
    1000, 0, 0, now(), now() FROM generate_series(1, 20000) n"""
_CHANGE_ACCOUNTS = """DO $$ BEGIN FOR flush IN 1..1000 LOOP
    UPDATE accounts SET balance = balance + 1, seq = seq + 1, updated_at = clock_timestamp() WHERE id = ANY (ARRAY(
    SELECT lpad(to_hex(1 + floor(random() * 20000)::int), 32, '0')::uuid FROM generate_series(1, 100)));
    COMMIT; END LOOP; END $$"""
_HOT_SHARE = "SELECT n_tup_hot_upd::float / n_tup_upd FROM pg_stat_user_tables WHERE relname = 'accounts'"


# 1. Bytes per transfer ------------------------------------------------------------------------------------------------


def _sizes(server: PostgresServer) -> dict[str, int]:
    """Return the size of each table of both databases with its indexes, in bytes."""
    lines = [(name, line) for name in (ACCOUNT, TRANSACTION) for line in server.sql(name, _SIZES).splitlines()]
    return {f"{database}, {line.split('|')[0]}": int(line.split("|")[1]) for database, line in lines}


async def _stream_bytes(url: str) -> int:
    connection = await nats.connect(url)
    try:
        return int((await connection.jetstream().stream_info(STREAM)).state.bytes)
    finally:
        await connection.close()


def _send_transfers(bank: LocalBank, accounts: list[str], count: int) -> None:
    def send(number: int) -> None:
        source, target = accounts[number % len(accounts)], accounts[(number + number // 200 % 7 + 1) % len(accounts)]
        response = bank.post("/transfers", usd(1, from_account=source, to_account=target))
        if response.status_code != 201:
            raise RuntimeError(f"a transfer got {response.status_code}: {response.text[:200]}")

    with ThreadPoolExecutor(_CLIENTS) as pool:
        list(pool.map(send, range(count)))


def bytes_per_transfer(server: PostgresServer, count: int, progress: Progress) -> list[Threshold]:
    """Send transfers and return what they take."""
    program = shutil.which("nats-server", path=f"{ROOT / '.tools'}:{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise PostgresNotInstalled("nats-server is not installed; on Debian: apt-get install nats-server")
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        process = Process(
            "nats", [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "nats")], folder / "log"
        )
        process.start()
        cleanup.callback(stop_all, [process])
        url = f"nats://127.0.0.1:{port}"
        stack = LocalStack(
            folder / "var",
            http_port=free_port(),
            account=Setting(free_port(), 1, server.create_database(ACCOUNT)),
            transaction=Setting(free_port(), 1, server.create_database(TRANSACTION)),
            events_url=url,
            extra_env={"SUBJECT_OPERATIONS_PER_SECOND": "0"},
        )
        cleanup.enter_context(stack)
        bank = LocalBank(stack)
        accounts = [bank.open_account(1_000_000) for _ in range(_CUSTOMERS)]
        _send_transfers(bank, accounts, _CUSTOMERS)
        bank.reconciliation()
        before, stream_before = _sizes(server), asyncio.run(_stream_bytes(url))
        _send_transfers(bank, accounts, count)
        eventually(lambda: not bank.reconciliation()["pending"])
        grown = {name: size - before[name] for name, size in _sizes(server).items()}
        grown["stream"] = asyncio.run(_stream_bytes(url)) - stream_before
        bank.close()
    for name, size in sorted(grown.items(), key=lambda item: -item[1]):
        if size:
            progress.info(f"{name}: {size / count:.0f} bytes per transfer")
    temporary = ("stream", f"{ACCOUNT}, outbox", f"{ACCOUNT}, idempotency_keys")
    totals = {
        "bytes per transfer in both databases and the stream": sum(grown.values()) / count,
        "of these, bytes that no retention deletes": sum(grown[name] for name in grown if name not in temporary)
        / count,
    }
    return [
        Threshold(
            f"{name} <= {MAX_SHARE:.0%} of {FORMER_BYTES}",
            f"{total:.0f}, {total / FORMER_BYTES:.0%}",
            total <= MAX_SHARE * FORMER_BYTES,
        )
        for name, total in totals.items()
    ]


# 2. Tables whose old rows are purged ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Aging:
    """A table whose old rows are purged; `changed` updates each inserted row once."""

    table: str
    min_per_second: int
    insert: str
    purge: Callable[[AsyncConnection, datetime], Awaitable[int]]
    changed: str = ""


async def _purge_keys(connection: AsyncConnection, before: datetime) -> int:
    keys = idempotency.table(MetaData())
    return await idempotency.purge(connection, keys, before=before, keep_subjects=[""], limit=_ROWS_PER_PURGE)


async def _purge_events(connection: AsyncConnection, before: datetime) -> int:
    outbox = Outbox(MetaData())
    head = await outbox.head(connection)
    return await outbox.prune(connection, before=before, read=head, limit=_ROWS_PER_PURGE)


async def _insert(engine: AsyncEngine, aging: Aging, first: datetime, rows: int) -> None:
    values = {"first": first, "period": timedelta(hours=1), "rows": rows}
    async with write_transaction(engine) as connection:
        await connection.execute(text(aging.insert), values)
    if aging.changed:
        async with write_transaction(engine) as connection:
            await connection.execute(text(aging.changed))


async def _purge(engine: AsyncEngine, aging: Aging, before: datetime) -> int:
    total, deleted = 0, _ROWS_PER_PURGE
    while deleted == _ROWS_PER_PURGE:
        async with write_transaction(engine) as connection:
            deleted = await aging.purge(connection, before)
        total += deleted
    return total


async def age(server: PostgresServer, database: str, aging: Aging, rows: int) -> tuple[list[tuple[int, int]], float]:
    """Let days with this number of rows per hour go by; return sizes of table and indexes, and purged rows per second.

    The sizes are those after the warm-up and after each of the following days.
    """
    table = aging.table
    factor = float(server.sql(database, _SCALE_FACTOR.format(table=table)) or _DEFAULT_SCALE_FACTOR)
    engine = create_engine(server.url(database), statement_seconds=600)
    dead, purged, seconds = 0, 0, 0.0
    found: list[tuple[int, int]] = []
    for hour in range(1, (_WARM_UP_DAYS + _DAYS) * 24 + 1):
        now = _START + timedelta(hours=hour)
        await _insert(engine, aging, now - timedelta(hours=1), rows)
        started = time.monotonic()
        deleted = await _purge(engine, aging, now - _RETENTION)
        seconds += time.monotonic() - started
        purged += deleted
        dead += deleted + (rows if aging.changed else 0)
        if dead > _VACUUM_THRESHOLD + factor * rows * min(hour, _RETENTION / timedelta(hours=1)):
            server.sql(database, f"VACUUM {table}")
            dead = 0
        if hour % 24 == 0 and hour >= _WARM_UP_DAYS * 24:
            found.append(_sizes_of(server, database, table))
    await engine.dispose()
    return found, purged / seconds


def _sizes_of(server: PostgresServer, database: str, table: str) -> tuple[int, int]:
    data, indexes = server.sql(database, f"SELECT pg_table_size('{table}'), pg_indexes_size('{table}')").split("|")
    return int(data), int(indexes)


_AGINGS = (
    # Twice the rate at which they are written. A row of the outbox has the events of at least ten transfers then.
    Aging("idempotency_keys", 2000, _INSERT_KEYS, _purge_keys),
    Aging("outbox", 200, _INSERT_EVENTS, _purge_events, _ASSIGN_POSITIONS),
)


# Both schemas ---------------------------------------------------------------------------------------------------------


def _create_ledger(server: PostgresServer, name: str, folder: Path, *, defaults: bool) -> None:
    """Create the tables of account-service; with PostgreSQL's default parameters, if wanted."""
    secrets = lab_keys.ensure(folder / "secrets")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": server.create_database(name),
        "AUTH_JWKS": str(secrets.jwks),
        "SERVICE_TOKEN_FILE": str(secrets.service_token),
    }
    command = [sys.executable, "-m", "app.migrate"]
    subprocess.run(command, cwd=ROOT / ACCOUNT, env=environment, check=True, capture_output=True)
    for aging in _AGINGS if defaults else ():
        server.sql(name, f"ALTER TABLE {aging.table} RESET (autovacuum_vacuum_scale_factor)")


def hot_share(server: PostgresServer, database: str) -> float:
    """Change random accounts; return the share of the changes that needed no index entry."""
    server.sql(database, _INSERT_ACCOUNTS, "VACUUM ANALYZE accounts")
    server.sql(database, "SELECT pg_stat_reset()")
    server.sql(database, _CHANGE_ACCOUNTS)
    time.sleep(2)
    return float(server.sql(database, _HOT_SHARE))


def measure_tables(server: PostgresServer, folder: Path, rows_per_hour: int, progress: Progress) -> list[Threshold]:
    """Let both tables age and change accounts, with and without the parameters of the migrations."""
    found: list[Threshold] = []
    for name, defaults in (("PostgreSQL's defaults", True), ("migrated", False)):
        database = "defaults" if defaults else "migrated"
        _create_ledger(server, database, folder, defaults=defaults)
        for aging in _AGINGS:
            days, per_second = asyncio.run(age(server, database, aging, rows_per_hour))
            sizes = ", ".join(f"{data / 2**20:.0f} + {indexes / 2**20:.0f}" for data, indexes in days)
            progress.info(f"{name}: {aging.table}, MB of table + indexes, daily: {sizes}")
            progress.info(f"{name}: {aging.table}, purged rows per second: {per_second:.0f}")
            growth = sum(days[-1]) / sum(days[0]) - 1
            if not defaults:
                found += [
                    Threshold(
                        f"growth of {aging.table} in {_DAYS} days <= {MAX_GROWTH:.0%}",
                        f"{growth:.1%}",
                        growth <= MAX_GROWTH,
                    ),
                    Threshold(
                        f"purged rows of {aging.table} per second >= {aging.min_per_second}",
                        f"{per_second:.0f}",
                        per_second >= aging.min_per_second,
                    ),
                ]
    share = hot_share(server, "migrated")
    return [
        *found,
        Threshold(f"HOT updates of accounts >= {MIN_HOT_SHARE:.0%}", f"{share:.1%}", share >= MIN_HOT_SHARE),
    ]


def main() -> int:
    """Run the drill, print the thresholds, and return 0 only if all are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transfers", type=int, default=10_000)
    parser.add_argument("--rows-per-hour", type=int, default=20_000)
    arguments = parser.parse_args()
    progress = Progress("storage", 2)
    settings = {"autovacuum": "off", "fsync": "off", "shared_buffers": "256MB", "max_wal_size": "4GB"}
    try:
        with PostgresServer(settings) as server, tempfile.TemporaryDirectory() as folder:
            progress.step(f"{arguments.transfers} transfers")
            found = bytes_per_transfer(server, arguments.transfers, progress)
            progress.step(f"{_DAYS} days with {arguments.rows_per_hour} rows per hour")
            found += measure_tables(server, Path(folder), arguments.rows_per_hour, progress)
    except (PostgresNotInstalled, subprocess.CalledProcessError, RuntimeError) as failure:
        progress.finished(str(failure), good=False)
        return 1
    return finish(progress, found)


if __name__ == "__main__":
    sys.exit(main())
