"""Fill NATS' volume many times over on a composed stack under load; no transfer may fail, and no event may be lost.

    make drills DRILL=stream_limits [ARGS="--megabytes 16 --times 4"]

The volume is a file system in memory, and half of it is the limit of the stream. In the second third of the load
transaction-service is stopped, so that the stream drops events that it has not consumed. Prints measured values and
thresholds; exits 1 when one is missed.
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
from drills.recovery.restore import Report, posted

_MONEY = 10**9
_BATCH = 50
# More than one, because the rate of each is limited.
_SUBJECTS = 20
_ACCOUNTS = 4
_CATCH_UP_SECONDS = 900.0
_VOLUME = """volumes:
  nats:
    driver: local
    driver_opts: {{type: tmpfs, device: tmpfs, o: "size={megabytes}m"}}
"""


class Transfers:
    """Transfers in batches at a rate, until stopped; `refused` are the responses that are not 201."""

    def __init__(self, bank: ComposedBank, rate: float) -> None:
        self._bank = bank
        self._interval = _BATCH / rate
        self._subjects = itertools.cycle(f"customer-{number}" for number in range(_SUBJECTS))
        self._accounts = {
            f"customer-{number}": [bank.open_account(_MONEY, f"customer-{number}") for _ in range(_ACCOUNTS)]
            for number in range(_SUBJECTS)
        }
        self.made = 0
        self.refused: list[str] = []
        self.late = 0.0

    def run(self, stopped: threading.Event) -> None:
        """Send batches at their scheduled times; a late batch is sent at once."""
        due = time.monotonic()
        while not stopped.wait(max(0.0, due - time.monotonic())):
            self.late = max(self.late, time.monotonic() - due)
            due += self._interval
            self._send()

    def _send(self) -> None:
        subject = next(self._subjects)
        accounts = itertools.cycle(self._accounts[subject])
        pairs = itertools.islice(itertools.pairwise(accounts), _BATCH)
        transfers = [{"key": uuid.uuid4().hex, **usd(1, from_account=a, to_account=b)} for a, b in pairs]
        response = self._bank.post("/transfers:batch", {"transfers": transfers}, subject=subject)
        results = response.json()["results"] if response.status_code == 200 else []
        self.made += sum(result["status"] == 201 for result in results)
        self.refused += [json.dumps(result)[:200] for result in results if result["status"] != 201]
        if not results:
            self.refused.append(f"{response.status_code} {response.text[:200]}")


@contextmanager
def sent(transfers: Transfers) -> Iterator[None]:
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
    """Return the size of all events of both services."""
    query = "SELECT coalesce(sum(octet_length(events)), 0) FROM outbox WHERE position IS NOT NULL"
    return sum(int(bank.sql(database, query)[0]) for database in ("account", "transaction"))


def wait_for(bank: ComposedBank, size: float) -> None:
    """Wait until so many bytes of events have been published."""
    while (published := published_bytes(bank)) < size:
        info(f"{published / 2**20:.0f} MiB published, {bank.unconsumed_events()} events not consumed")
        time.sleep(10)


def run(bank: ComposedBank, volume: int, times: float, rate: float, report: Report) -> None:
    """Send, stop the consumer in the second third, and compare."""
    transfers = Transfers(bank, rate)
    total = volume * times
    with sent(transfers):
        wait_for(bank, total / 3)
        bank.compose("stop", "transaction-service")
        wait_for(bank, total * 2 / 3)
        bank.compose("start", "transaction-service")
        wait_for(bank, total)
    began = time.monotonic()
    eventually(lambda: bank.unconsumed_events() == 0, _CATCH_UP_SECONDS, 1)
    info(f"{transfers.made} transfers; every event consumed {time.monotonic() - began:.0f} s after the last one")
    state = bank.event_stream()
    report.at_most("transfers that were refused", len(transfers.refused), 0)
    report.at_most("size of the stream, MiB", round(state["bytes"] / 2**20, 1), volume / 2 / 2**20)
    report.at_least("messages that the stream has dropped", state["first_seq"] - 1, 1)
    report.at_least("events that were read from the feed", recovered(bank), 1)
    reconciliation = bank.reconciliation(_CATCH_UP_SECONDS)
    report.at_most("accounts that the reconciliation finds wrong", reconciliation["mismatches"], 0)
    report.at_most("accounts whose history is not complete", reconciliation["pending"], 0)
    differing = posted(bank, "account") ^ posted(bank, "transaction")
    report.at_most("transactions in only one of ledger and history", len(differing), 0)
    for text in (*transfers.refused[:3], f"a batch was sent up to {transfers.late:.1f} s late"):
        info(text)


def recovered(bank: ComposedBank) -> int:
    """Return how many events the current replicas of transaction-service have read from the feed."""
    found = bank.prometheus.value('sum(max_over_time(bank_events_recovered_total{service="transaction-service"}[1h]))')
    return int(found or 0)


def main() -> int:
    """Run the drill on a dedicated stack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=64, help="size of NATS' volume (default 64)")
    parser.add_argument("--times", type=float, default=10, help="how often to fill it (default 10)")
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
            bank.operate("pause")
            run(bank, volume, arguments.times, arguments.rate, report)
        finally:
            bank.close()
    return exit_code(report.missed)


if __name__ == "__main__":
    sys.exit(main())
