"""Delete the volumes of PostgreSQL and NATS of a dedicated stack under load, and restore them.

    make drills DRILL=restore [ARGS="--seconds 20"]

The drill makes a backup under load and records a recovery target time. It kills PostgreSQL and removes its volume,
restores to the last transaction in the archive, removes the volume again and restores to the target time. At the end
it removes NATS' volume under load. After each step it compares the acknowledged transfers with the ledger, and the
ledger with the history. Prints measured values and thresholds; exits 1 when one is missed.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx

from harness.commands import check, exit_code, info
from harness.composed_stack import ComposedBank
from harness.client import eventually, repeating, usd
from harness.load import Worker

_ACCOUNTS = 12
_INITIAL_BALANCE = 1_000_000
_CLIENTS = 4
# As in .env: the maximum delay between a commit and its WAL segment's arrival in the archive.
_ARCHIVE_SECONDS = 30
_TIMEOUT_SECONDS = 180
RPO_SECONDS = _ARCHIVE_SECONDS + 5.0
RTO_SECONDS = 120.0
NATS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class AcknowledgedTransfer:
    """An acknowledged transfer: its id, and the times of request and response (seconds since 1970)."""

    id: str
    sent_at: float
    acknowledged_at: float


@dataclass
class ClientLog:
    """Acknowledged transfers, and the errors of failed ones."""

    acknowledged: list[AcknowledgedTransfer] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Measured values and their thresholds; `missed` lists the thresholds that were missed."""

    missed: list[str] = field(default_factory=list)

    def at_most(self, what: str, value: float, threshold: float, unit: str = "") -> None:
        """Print a value and its maximum."""
        self._line(what, f"{value:g}{unit} (threshold: at most {threshold:g}{unit})", value <= threshold)

    def at_least(self, what: str, value: float, threshold: float) -> None:
        """Print a value and its minimum."""
        self._line(what, f"{value:g} (threshold: at least {threshold:g})", value >= threshold)

    def _line(self, what: str, text: str, met: bool) -> None:
        if not check(met, f"{what}: {text}"):
            self.missed.append(what)


@contextmanager
def load(bank: ComposedBank, accounts: list[str], log: ClientLog) -> Iterator[None]:
    """Transfer between the accounts while the block runs."""

    def work(worker: Worker, rng: random.Random) -> None:
        worker.source, worker.target = rng.sample(accounts, 2)
        sent_at = time.time()
        response = worker.transfer(uuid.uuid4().hex, amount=rng.randint(1, 9))
        if response.status == 201:
            log.acknowledged.append(AcknowledgedTransfer(json.loads(response.text)["id"], sent_at, time.time()))
        else:
            log.errors.append(f"{response.status or ''} {response.text[:100]}")
            time.sleep(0.1)

    pool = [(Worker(bank, "", "", timeout=5), random.Random(seed)) for seed in range(_CLIENTS)]
    with repeating(*(partial(work, *task) for task in pool)):
        yield
    for worker, _ in pool:
        worker.close()


def remove_volume(bank: ComposedBank, service: str) -> None:
    """Kill a service and remove its volume."""
    bank.docker("kill", *bank.containers(service))
    # node-exporter mounts the host's file systems, and would keep the volume in use.
    bank.compose("rm", "--force", "--stop", service, "node-exporter")
    bank.docker("volume", "rm", f"{bank.project}_{service}")


def restore(bank: ComposedBank, target_time: float | None) -> float:
    """Restore to a target time (None: the last transaction); return the seconds until a transfer succeeds."""
    started = time.monotonic()
    target = {}
    if target_time is not None:
        target = {"TO": datetime.fromtimestamp(target_time, UTC).isoformat().replace("+00:00", "Z")}
    for line in bank.script("scripts/stack/restore.sh", **target).splitlines():
        if line.startswith("restore: ") or "invariants" in line:
            info(line)
    eventually(lambda: _transfer_succeeds(bank), _TIMEOUT_SECONDS, 0.2)
    return time.monotonic() - started


def _transfer_succeeds(bank: ComposedBank) -> bool:
    try:
        account = bank.post("/accounts", {"currency": "USD"}, subject="after-restore")
        deposit = bank.post(f"/accounts/{account.json()['id']}/deposits", usd(1), subject="after-restore")
        return deposit.status_code == 201
    except (httpx.TransportError, KeyError, ValueError):
        return False


def posted_ids(bank: ComposedBank, database: str) -> set[str]:
    """Return the ids of the posted transactions in a database."""
    condition = "" if database == "account" else " WHERE status = 'posted'"
    return set(bank.sql(database, f"SELECT id FROM transactions{condition}"))


def wrong_balances(bank: ComposedBank, accounts: list[str], transfers: set[str]) -> int:
    """Return the number of accounts whose balance in the API differs from the ledger's transfers."""
    rows = bank.sql("account", "SELECT id, amount, from_account, to_account FROM transactions WHERE type = 'transfer'")
    expected = dict.fromkeys(accounts, _INITIAL_BALANCE)
    for transfer, amount, source, target in (row.split("|") for row in rows):
        if transfer in transfers:
            expected[source] -= int(amount)
            expected[target] += int(amount)
    return sum(bank.balance(account) != balance for account, balance in expected.items())


def check_agreement(bank: ComposedBank, accounts: list[str], report: Report) -> None:
    """Compare ledger, balances and history, and check that there are no dead letters."""
    bank.assert_ledger_is_sound()
    reconciliation = bank.reconciliation(_TIMEOUT_SECONDS)
    ledger = posted_ids(bank, "account")
    report.at_most("reconciliation mismatches", reconciliation["mismatches"], 0)
    report.at_most("accounts with pending history", reconciliation["pending"], 0)
    report.at_most("transactions in only one of ledger and history", len(ledger ^ posted_ids(bank, "transaction")), 0)
    report.at_most("balances that differ from the ledger", wrong_balances(bank, accounts, ledger), 0)
    dead_letters = sum(
        int(bank.sql(name, "SELECT count(*) FROM dead_letters")[0]) for name in ("account", "transaction")
    )
    report.at_most("dead letters", dead_letters, 0)


def run(bank: ComposedBank, seconds: float, report: Report) -> None:
    """Run all steps; `seconds` is the duration of the load before and after the target time."""
    accounts = [bank.open_account(_INITIAL_BALANCE) for _ in range(_ACCOUNTS)]
    log = ClientLog()
    with load(bank, accounts, log):
        time.sleep(2)
        info(bank.script("scripts/stack/backup.sh").strip().splitlines()[-1])
        time.sleep(seconds)
        target_time = time.time()
        # Load continues after this time, so that its WAL is archived.
        time.sleep(max(seconds, _ARCHIVE_SECONDS + 5))
        lost_at = time.time()
        remove_volume(bank, "postgres")
    acknowledged = list(log.acknowledged)
    info(f"PostgreSQL's volume removed after {len(acknowledged)} acknowledged transfers")

    seconds_taken = restore(bank, None)
    restored_ids = posted_ids(bank, "account")
    lost = [transfer for transfer in acknowledged if transfer.id not in restored_ids]
    info(f"restored to the last transaction: {len(acknowledged) - len(lost)} transfers recovered, {len(lost)} lost")
    report.at_most("RTO, volume loss to first successful transfer", round(seconds_taken, 1), RTO_SECONDS, " s")
    data_loss_seconds = lost_at - min((transfer.acknowledged_at for transfer in lost), default=lost_at)
    report.at_most("RPO, age of the oldest lost acknowledged transfer", round(data_loss_seconds, 1), RPO_SECONDS, " s")
    check_agreement(bank, accounts, report)

    remove_volume(bank, "postgres")
    seconds_taken = restore(bank, target_time)
    restored_ids = posted_ids(bank, "account")
    before = [transfer for transfer in acknowledged if transfer.acknowledged_at <= target_time]
    after = [transfer for transfer in acknowledged if transfer.sent_at > target_time]
    info(f"restored to the recovery target: {len(before)} transfers acknowledged before it, {len(after)} sent after it")
    report.at_least("acknowledged before the recovery target", len(before), 100)
    report.at_least("sent after the recovery target", len(after), 100)
    report.at_most("RTO, volume loss to first successful transfer", round(seconds_taken, 1), RTO_SECONDS, " s")
    report.at_most("acknowledged before the recovery target but lost", sum(t.id not in restored_ids for t in before), 0)
    report.at_most("sent after the recovery target but present", sum(t.id in restored_ids for t in after), 0)
    check_agreement(bank, accounts, report)

    log = ClientLog()
    with load(bank, accounts, log):
        time.sleep(2)
        remove_volume(bank, "nats")
        started = time.monotonic()
        bank.compose("up", "--detach", "--no-deps", "nats", "node-exporter")
        time.sleep(5)
    info(f"NATS' volume removed; {len(log.acknowledged)} transfers acknowledged meanwhile")
    report.at_most("failed transfers during NATS loss", len(log.errors), 0)
    eventually(lambda: bank.unconsumed_events() == 0, _TIMEOUT_SECONDS, 0.5)
    seconds_taken = time.monotonic() - started
    report.at_most("time until all events are consumed", round(seconds_taken, 1), NATS_SECONDS, " s")
    check_agreement(bank, accounts, report)


def main() -> int:
    """Run the drill on a dedicated stack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seconds", type=float, default=15, help="duration of the load before and after the target time (default 15)"
    )
    arguments = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        bank = ComposedBank(
            Path(folder), COMPOSE_FILE="docker-compose.yml", POSTGRES_ARCHIVE_SECONDS=str(_ARCHIVE_SECONDS)
        )
        try:
            bank.autoscale_cli("pause")
            run(bank, arguments.seconds, report)
        finally:
            bank.close()
    return exit_code(report.missed)


if __name__ == "__main__":
    sys.exit(main())
