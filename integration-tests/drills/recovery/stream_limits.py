"""Publish several times the size of NATS' volume on a composed stack; no transfer may fail, no event may be lost.

    make drills DRILL=stream_limits [ARGS="--megabytes 16 --times 4"]

The volume is a tmpfs, and the size limit of the stream is half of it. transaction-service is stopped during the second
third of the load, so that the stream drops events that it has not consumed. Prints measured values and thresholds;
exits 1 when one is missed.
"""

import argparse
import itertools
import json
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.client import eventually, usd
from harness.commands import exit_code, info
from harness.composed_stack import ComposedBank
from drills.recovery.restore import Report, posted_ids

_INITIAL_BALANCE = 10**9
_BATCH = 50
# Several subjects, because the rate limit is per subject.
_SUBJECTS = 20
_ACCOUNTS = 4
_CATCH_UP_SECONDS = 900.0
_VOLUME = """volumes:
  nats:
    driver: local
    driver_opts: {{type: tmpfs, device: tmpfs, o: "size={megabytes}m"}}
"""


class Transfers:
    """Sends transfer batches at a rate; counts acknowledged transfers and records the results of failed ones."""

    def __init__(self, bank: ComposedBank, rate: float) -> None:
        self._bank = bank
        self._interval = _BATCH / rate
        self._subjects = itertools.cycle(f"customer-{number}" for number in range(_SUBJECTS))
        self._accounts = {
            f"customer-{number}": [bank.open_account(_INITIAL_BALANCE, f"customer-{number}") for _ in range(_ACCOUNTS)]
            for number in range(_SUBJECTS)
        }
        self.acknowledged = 0
        self.failed: list[str] = []
        self.schedule_delay = 0.0

    def run(self, stopped: threading.Event) -> None:
        """Send batches on schedule until stopped; overdue batches are sent immediately."""
        due = time.monotonic()
        while not stopped.wait(max(0.0, due - time.monotonic())):
            self.schedule_delay = max(self.schedule_delay, time.monotonic() - due)
            due += self._interval
            self._send()

    def _send(self) -> None:
        subject = next(self._subjects)
        accounts = itertools.cycle(self._accounts[subject])
        pairs = itertools.islice(itertools.pairwise(accounts), _BATCH)
        transfers = [{"key": uuid.uuid4().hex, **usd(1, from_account=a, to_account=b)} for a, b in pairs]
        response = self._bank.post("/transfers:batch", {"transfers": transfers}, subject=subject)
        results = response.json()["results"] if response.status_code == 200 else []
        self.acknowledged += sum(result["status"] == 201 for result in results)
        self.failed += [json.dumps(result)[:200] for result in results if result["status"] != 201]
        if not results:
            self.failed.append(f"{response.status_code} {response.text[:200]}")


@contextmanager
def running(transfers: Transfers) -> Iterator[None]:
    """Send transfers while the block runs."""
    stopped = threading.Event()
    thread = threading.Thread(target=transfers.run, args=(stopped,))
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def published_bytes(bank: ComposedBank) -> int:
    """Return the size of all published events of both services."""
    query = "SELECT coalesce(sum(octet_length(events)), 0) FROM outbox WHERE position IS NOT NULL"
    return sum(int(bank.sql(database, query)[0]) for database in ("account", "transaction"))


def wait_until_published(bank: ComposedBank, size: float) -> None:
    """Wait until events of this size in bytes have been published."""
    while (published := published_bytes(bank)) < size:
        info(f"{published / 2**20:.0f} MiB published, {bank.unconsumed_events()} events not consumed")
        time.sleep(10)


def run(bank: ComposedBank, volume: int, times: float, rate: float, report: Report) -> None:
    """Send transfers, stop the consumer during the second third, and compare ledger and history."""
    transfers = Transfers(bank, rate)
    total = volume * times
    with running(transfers):
        wait_until_published(bank, total / 3)
        bank.compose("stop", "transaction-service")
        wait_until_published(bank, total * 2 / 3)
        bank.compose("start", "transaction-service")
        wait_until_published(bank, total)
    started = time.monotonic()
    eventually(lambda: bank.unconsumed_events() == 0, _CATCH_UP_SECONDS, 1)
    info(
        f"{transfers.acknowledged} transfers acknowledged;"
        f" all events consumed {time.monotonic() - started:.0f} s after the last transfer"
    )
    state = bank.event_stream()
    report.at_most("failed transfers", len(transfers.failed), 0)
    report.at_most("stream size, MiB", round(state["bytes"] / 2**20, 1), volume / 2 / 2**20)
    report.at_least("messages dropped by the stream", state["first_seq"] - 1, 1)
    report.at_least("events recovered from the feed", recovered_events(bank), 1)
    reconciliation = bank.reconciliation(_CATCH_UP_SECONDS)
    report.at_most("reconciliation mismatches", reconciliation["mismatches"], 0)
    report.at_most("accounts with pending history", reconciliation["pending"], 0)
    differing = posted_ids(bank, "account") ^ posted_ids(bank, "transaction")
    report.at_most("transactions in only one of ledger and history", len(differing), 0)
    for text in (*transfers.failed[:3], f"maximum schedule delay of a batch: {transfers.schedule_delay:.1f} s"):
        info(text)


def recovered_events(bank: ComposedBank) -> int:
    """Return the number of events that the current replicas of transaction-service have read from the feed."""
    found = bank.prometheus.value('sum(max_over_time(bank_events_recovered_total{service="transaction-service"}[1h]))')
    return int(found or 0)


def main() -> int:
    """Run the drill on a dedicated stack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=64, help="size of NATS' volume (default 64)")
    parser.add_argument(
        "--times", type=float, default=10, help="size of the published events as a multiple of the volume (default 10)"
    )
    parser.add_argument("--rate", type=float, default=500, help="transfers per second (default 500)")
    arguments = parser.parse_args()
    report = Report()
    volume = arguments.megabytes * 2**20
    with tempfile.TemporaryDirectory() as folder:
        override = Path(folder) / "volume.yml"
        override.write_text(_VOLUME.format(megabytes=arguments.megabytes), encoding="utf-8")
        bank = ComposedBank(
            Path(folder), COMPOSE_FILE=f"docker-compose.yml:{override}", EVENTS_STREAM_BYTES=str(volume // 2)
        )
        try:
            bank.autoscale_cli("pause")
            run(bank, volume, arguments.times, arguments.rate, report)
        finally:
            bank.close()
    return exit_code(report.missed)


if __name__ == "__main__":
    sys.exit(main())
