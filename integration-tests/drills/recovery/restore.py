"""Lose the databases and the event broker of a dedicated stack under load, and restore them.

    make drills DRILL=restore [ARGS="--seconds 20"]

A backup is made under load and a restore target time is recorded. PostgreSQL is killed and its volume removed: it is
restored to the last transaction in the archive, and after a second loss to the target time. At the end NATS' volume is
removed under load. After each step the acknowledged transfers are compared with the ledger, and the ledger with the
history. Prints measured values and thresholds; exits 1 when one is missed.
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
_MONEY = 1_000_000
_CLIENTS = 4
# As in .env: the maximum delay between a commit and its WAL segment's arrival in the archive.
_ARCHIVE_SECONDS = 30
_PATIENCE_SECONDS = 180
RPO_SECONDS = _ARCHIVE_SECONDS + 5.0
RTO_SECONDS = 120.0
NATS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An acknowledged transfer: its id, and the times of request and response (seconds since 1970)."""

    id: str
    sent_at: float
    answered_at: float


@dataclass
class Clients:
    """Acknowledged transfers, and the errors of all others."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Measured values and their thresholds; `missed` lists the thresholds that were missed."""

    missed: list[str] = field(default_factory=list)

    def at_most(self, what: str, figure: float, threshold: float, unit: str = "") -> None:
        """Print a value and its maximum."""
        self._line(what, f"{figure:g}{unit} (threshold: at most {threshold:g}{unit})", figure <= threshold)

    def at_least(self, what: str, figure: float, threshold: float) -> None:
        """Print a value and its minimum."""
        self._line(what, f"{figure:g} (threshold: at least {threshold:g})", figure >= threshold)

    def _line(self, what: str, text: str, met: bool) -> None:
        if not check(met, f"{what}: {text}"):
            self.missed.append(what)


@contextmanager
def load(bank: ComposedBank, accounts: list[str], clients: Clients) -> Iterator[None]:
    """Transfer between the accounts while the block runs."""

    def work(worker: Worker, chance: random.Random) -> None:
        worker.source, worker.target = chance.sample(accounts, 2)
        sent_at = time.time()
        response = worker.transfer(uuid.uuid4().hex, amount=chance.randint(1, 9))
        if response.status == 201:
            clients.acknowledged.append(Acknowledged(json.loads(response.text)["id"], sent_at, time.time()))
        else:
            clients.errors.append(f"{response.status or ''} {response.text[:100]}")
            time.sleep(0.1)

    pool = [(Worker(bank, "", "", timeout=5), random.Random(seed)) for seed in range(_CLIENTS)]
    with repeating(*(partial(work, *task) for task in pool)):
        yield
    for worker, _ in pool:
        worker.close()


def remove_volume(bank: ComposedBank, service: str) -> None:
    """Kill a service and remove its volume."""
    bank.docker("kill", *bank.containers(service))
    # node-exporter mounts every disk, and would keep the volume in use.
    bank.compose("rm", "--force", "--stop", service, "node-exporter")
    bank.docker("volume", "rm", f"{bank.project}_{service}")


def restored(bank: ComposedBank, moment: float | None) -> float:
    """Restore to a time, or to the last transaction; return the seconds until a transfer succeeds."""
    began = time.monotonic()
    to = {} if moment is None else {"TO": datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")}
    for line in bank.script("scripts/stack/restore.sh", **to).splitlines():
        if line.startswith("restore: ") or "invariants" in line:
            info(line)
    eventually(lambda: _transfers(bank), _PATIENCE_SECONDS, 0.2)
    return time.monotonic() - began


def _transfers(bank: ComposedBank) -> bool:
    try:
        account = bank.post("/accounts", {"currency": "USD"}, subject="afterwards")
        deposit = bank.post(f"/accounts/{account.json()['id']}/deposits", usd(1), subject="afterwards")
        return deposit.status_code == 201
    except (httpx.TransportError, KeyError, ValueError):
        return False


def posted(bank: ComposedBank, database: str) -> set[str]:
    """Return the ids of the posted transactions in a database."""
    condition = "" if database == "account" else " WHERE status = 'posted'"
    return set(bank.sql(database, f"SELECT id FROM transactions{condition}"))


def wrong_balances(bank: ComposedBank, accounts: list[str], transfers: set[str]) -> int:
    """Return how many balances in the API differ from the first deposit plus the transfers in the ledger."""
    rows = bank.sql("account", "SELECT id, amount, from_account, to_account FROM transactions WHERE type = 'transfer'")
    expected = dict.fromkeys(accounts, _MONEY)
    for transfer, amount, source, target in (row.split("|") for row in rows):
        if transfer in transfers:
            expected[source] -= int(amount)
            expected[target] += int(amount)
    return sum(bank.balance(account) != balance for account, balance in expected.items())


def check_agreement(bank: ComposedBank, accounts: list[str], report: Report) -> None:
    """Compare ledger, balances and history, and check that the broker has every event."""
    bank.assert_ledger_is_sound()
    reconciliation = bank.reconciliation(_PATIENCE_SECONDS)
    ledger = posted(bank, "account")
    report.at_most("accounts that the reconciliation finds wrong", reconciliation["mismatches"], 0)
    report.at_most("accounts whose history is not complete yet", reconciliation["pending"], 0)
    report.at_most("transactions in only one of ledger and history", len(ledger ^ posted(bank, "transaction")), 0)
    report.at_most("balances that differ from the ledger", wrong_balances(bank, accounts, ledger), 0)
    letters = sum(int(bank.sql(name, "SELECT count(*) FROM dead_letters")[0]) for name in ("account", "transaction"))
    report.at_most("dead letters", letters, 0)


def run(bank: ComposedBank, seconds: float, report: Report) -> None:
    """Lose, restore and compare."""
    accounts = [bank.open_account(_MONEY) for _ in range(_ACCOUNTS)]
    clients = Clients()
    with load(bank, accounts, clients):
        time.sleep(2)
        info(bank.script("scripts/stack/backup.sh").strip().splitlines()[-1])
        time.sleep(seconds)
        moment = time.time()
        # Load continues after this time, so that its WAL is archived.
        time.sleep(max(seconds, _ARCHIVE_SECONDS + 5))
        lost_at = time.time()
        remove_volume(bank, "postgres")
    known = list(clients.acknowledged)
    info(f"PostgreSQL's volume is gone; clients know of {len(known)} transfers")

    took = restored(bank, None)
    there = posted(bank, "account")
    lost = [transfer for transfer in known if transfer.id not in there]
    info(f"to the last transaction: {len(known) - len(lost)} transfers are there, {len(lost)} are not")
    report.at_most("RTO, loss of the volume to a transfer", round(took, 1), RTO_SECONDS, " s")
    reach = lost_at - min((transfer.answered_at for transfer in lost), default=lost_at)
    report.at_most("RPO, age of the oldest acknowledged transfer that is gone", round(reach, 1), RPO_SECONDS, " s")
    check_agreement(bank, accounts, report)

    remove_volume(bank, "postgres")
    took = restored(bank, moment)
    there = posted(bank, "account")
    before = [transfer for transfer in known if transfer.answered_at <= moment]
    after = [transfer for transfer in known if transfer.sent_at > moment]
    info(f"to the moment: {len(before)} transfers were acknowledged before it, {len(after)} begun after it")
    report.at_least("transfers acknowledged before the moment", len(before), 100)
    report.at_least("transfers begun after the moment", len(after), 100)
    report.at_most("RTO, loss of the volume to a transfer", round(took, 1), RTO_SECONDS, " s")
    report.at_most("acknowledged before the moment and missing", sum(t.id not in there for t in before), 0)
    report.at_most("begun after the moment and there", sum(t.id in there for t in after), 0)
    check_agreement(bank, accounts, report)

    clients = Clients()
    with load(bank, accounts, clients):
        time.sleep(2)
        remove_volume(bank, "nats")
        began = time.monotonic()
        bank.compose("up", "--detach", "--no-deps", "nats", "node-exporter")
        time.sleep(5)
    info(f"NATS' volume is gone; {len(clients.acknowledged)} transfers meanwhile")
    report.at_most("transfers that were not answered 201 meanwhile", len(clients.errors), 0)
    eventually(lambda: bank.unconsumed_events() == 0, _PATIENCE_SECONDS, 0.5)
    took = time.monotonic() - began
    report.at_most("until every event is consumed", round(took, 1), NATS_SECONDS, " s")
    check_agreement(bank, accounts, report)


def main() -> int:
    """Run the drill on a dedicated stack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15, help="of load before the moment, and after (default 15)")
    arguments = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        bank = ComposedBank(
            Path(folder), COMPOSE_FILE="docker-compose.yml", POSTGRES_ARCHIVE_SECONDS=str(_ARCHIVE_SECONDS)
        )
        try:
            bank.operate("pause")
            run(bank, arguments.seconds, report)
        finally:
            bank.close()
    return exit_code(report.missed)


if __name__ == "__main__":
    sys.exit(main())
