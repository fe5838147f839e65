"""Lose the primary of a cluster of three hosts on Docker, in three ways, while clients transfer money.

    make drills DRILL=cluster [ARGS="--power-losses 5 --keep"]

Starts a lab as `make cluster` does, and account-service on this machine with the database and broker URLs of the
cluster. Clients transfer money through it and retry with the same idempotency key. The primary's host loses power
(links down, then SIGKILL of everything), the next primary is frozen and thawed, and a planned switchover follows.
Prints each measured value with its threshold; exits 1 when one is missed.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from harness.client import Bank, eventually, output_of
from harness.commands import ENVIRONMENT, finish, info
from harness.load import TransferLog, retrying_transfers

from scripts.cluster import lab as cluster
from scripts.cluster.commands import run, wait_until
from scripts.cluster.lab import Host, Lab
from shared.testing import lab_keys
from shared.testing.local_stack import ACCOUNT
from shared.testing.paths import ROOT
from shared.testing.ports import free_port
from shared.testing.processes import Process, stop_all
from shared.testing.progress import Progress
from shared.testing.thresholds import Threshold

# Longest time without commits, in seconds.
_FAILOVER_SECONDS = 30.0
_SWITCHOVER_SECONDS = 3.0
# Time until a host that comes back is a standby.
_STANDBY_SECONDS = 60.0
_EVENTS_SECONDS = 60.0
_MONEY = 100_000_000
_CLIENTS = 4
_PAUSE_SECONDS = 0.05
# Limits that only a failure of the drill reaches.
_NEW_PRIMARY_SECONDS = 180
_COMPLETE_SECONDS = 300
_RETRY_SECONDS = 240
_TRANSFERS_AFTERWARDS = 100


class ClusterBank(Bank):
    """account-service as a process of this machine, with the database and the broker of a cluster."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        port = free_port()
        secrets = lab_keys.ensure(lab.var / "secrets")
        authority = str(lab.secrets / "ca_certificate")
        self._environment = {
            **ENVIRONMENT,
            "PYTHONPATH": str(ROOT),
            "PORT": str(port),
            "AUTH_JWKS": str(secrets.jwks),
            "SERVICE_TOKEN_FILE": str(secrets.service_token),
            "LEDGER_SIGNING_KEY_FILE": str(secrets.ledger_key),
            "DATABASE_URL_FILE": str(lab.secrets / "account_database_url"),
            "EVENTS_URL_FILE": str(lab.secrets / "account_events_url"),
            "EVENTS_CA_FILE": authority,
            "EVENTS_STREAM_REPLICAS": str(cluster.STREAM_REPLICAS),
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": authority,
        }
        self._process = Process(
            ACCOUNT,
            [sys.executable, "-m", "app"],
            folder / "account-service.log",
            cwd=ROOT / ACCOUNT,
            env=self._environment,
        )
        self._process.start()
        super().__init__(f"http://127.0.0.1:{port}", secrets)

    def is_ready(self) -> bool:
        """Return whether the service can serve requests."""
        assert not self._process.died, self._process.log_tail()
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def pending_events(self) -> int:
        """Return the number of committed events that the broker does not have yet."""
        found = re.search(r"^bank_outbox_pending(?:{.*})? (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        assert found, "no metric bank_outbox_pending"
        return int(float(found[1]))

    def run_module(self, service: str, module: str) -> str:
        """Run a module of account-service on the cluster's database and return its output."""
        return output_of([sys.executable, "-m", module], self._environment, 120, ROOT / service)

    def close(self) -> None:
        """Stop the service."""
        super().close()
        stop_all([self._process])


def _cut_power(host: Host) -> None:
    """Take the host's links down, so that nothing it still sends arrives, and kill everything on it."""
    host.shell("ip", "link", "set", "eth0", "down")
    run("docker", "kill", "--signal", "KILL", host.container)


def _freeze(host: Host) -> None:
    """Freeze Patroni and PostgreSQL; the kernel keeps their connections open."""
    host.compose("pause", "postgres")


def _thaw(host: Host) -> None:
    host.compose("unpause", "postgres")


class _Drill:
    def __init__(self, lab: Lab, transfers: TransferLog) -> None:
        self._lab = lab
        self._transfers = transfers
        self.thresholds: list[Threshold] = []

    def replace_primary(
        self, name: str, limit: float, action: Callable[[Host], object], repair: Callable[[Host], object] | None = None
    ) -> None:
        """Do something to the primary's host; measure the time without commits, and until it is a standby."""
        before: Host = wait_until(self._lab.primary, _NEW_PRIMARY_SECONDS, "a primary")
        info(f"{name}: {before.name}")
        started = time.monotonic()
        action(before)
        after = wait_until(lambda: self._other_primary(before), _NEW_PRIMARY_SECONDS, "another primary")
        self._wait_for_transfers(_TRANSFERS_AFTERWARDS)
        seconds = self._transfers.longest_pause(started, time.monotonic())
        info(f"{name}: the primary is on {after.name}")
        self.thresholds.append(
            Threshold(f"{name}: commits again within {limit:.0f} s", f"{seconds:.1f} s", seconds <= limit)
        )
        repaired = time.monotonic()
        if repair:
            repair(before)
        wait_until(self._lab.is_complete, _COMPLETE_SECONDS, f"{before.name} as a standby")
        seconds = time.monotonic() - repaired
        self.thresholds.append(
            Threshold(
                f"{name}: a standby within {_STANDBY_SECONDS:.0f} s", f"{seconds:.0f} s", seconds <= _STANDBY_SECONDS
            )
        )
        self._wait_for_transfers(_TRANSFERS_AFTERWARDS)

    def _other_primary(self, before: Host) -> Host | None:
        found = self._lab.primary()
        return found if found != before else None

    def _wait_for_transfers(self, number: int) -> None:
        enough = len(self._transfers.acknowledged) + number
        eventually(lambda: len(self._transfers.acknowledged) >= enough, _RETRY_SECONDS)


def _posted(lab: Lab, account: str) -> list[str]:
    """Return the ids of the transactions that credit an account, from the primary."""
    primary: Host = wait_until(lab.primary, _NEW_PRIMARY_SECONDS, "a primary")
    query = f"SELECT id FROM transactions WHERE to_account = '{account}'"  # nosec B608  # an id of our own
    return primary.inside("postgres", "psql", "-qAt", "-d", "account", "-c", query).split()


def lost_and_doubled(posted: Iterable[str], acknowledged: Mapping[str, str]) -> tuple[int, int]:
    """Return the number of acknowledged transfers that are not posted, and of posted ones that are not acknowledged.

    `posted` are ids of transactions; `acknowledged` are these ids by idempotency key. As each client retries until a
    response, a transaction that no key was acknowledged with is the second effect of its key.
    """
    found, expected = Counter(posted), Counter(acknowledged.values())
    return (expected - found).total(), (found - expected).total()


def _check_ledger(lab: Lab, bank: ClusterBank, transfers: TransferLog, target: str) -> list[Threshold]:
    """Compare the acknowledged transfers with the ledger, and wait for its events."""
    lost, doubled = lost_and_doubled(_posted(lab, target), transfers.acknowledged)
    total = f"of {len(transfers.acknowledged)} acknowledged"
    deadline = time.monotonic() + _EVENTS_SECONDS
    while (pending := bank.pending_events()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [
        Threshold("transfers lost: 0", f"{lost} {total}", not lost),
        Threshold("transfers doubled: 0", f"{doubled} {total}", not doubled),
        Threshold("clients without a response: 0", " ".join(transfers.errors[:3]) or "0", not transfers.errors),
        Threshold(f"events not published after {_EVENTS_SECONDS:.0f} s: 0", f"{pending}", not pending),
    ]


@contextmanager
def _running(lab: Lab, *, keep: bool) -> Iterator[None]:
    try:
        cluster.up(lab, Progress("cluster", 6))
        yield
    finally:
        if not keep:
            cluster.down(lab, volumes=True)


def _run(lab: Lab, folder: Path, power_losses: int) -> list[Threshold]:
    bank = ClusterBank(lab, folder)
    try:
        eventually(bank.is_ready)
        source, target = bank.open_account(_MONEY), bank.open_account()
        with retrying_transfers(
            bank, source, target, clients=_CLIENTS, timeout=_RETRY_SECONDS, every=_PAUSE_SECONDS
        ) as transfers:
            drill = _Drill(lab, transfers)
            for _ in range(power_losses):
                drill.replace_primary("power loss of the primary's host", _FAILOVER_SECONDS, _cut_power, Host.start)
            drill.replace_primary("frozen primary", _FAILOVER_SECONDS, _freeze, _thaw)
            drill.replace_primary("switchover", _SWITCHOVER_SECONDS, lambda _: cluster.switchover(lab))
        thresholds = [*drill.thresholds, *_check_ledger(lab, bank, transfers, target)]
        info(bank.run_module(ACCOUNT, "app.verify").strip())
        return thresholds
    finally:
        bank.close()


def main() -> int:
    """Run the drill."""
    parser = argparse.ArgumentParser(prog="make drills DRILL=cluster", description="Lose the primary of a cluster.")
    parser.add_argument("--power-losses", type=int, default=1, help="number of primaries' hosts that lose power")
    parser.add_argument("--keep", action="store_true", help="keep the lab for the next run")
    parser.add_argument("--subnet", default="10.89.24.0/24", help="addresses of the hosts")
    options = parser.parse_args()
    lab = Lab(name="bank-drill-cluster", subnet=options.subnet, size=3)
    progress = Progress("cluster", 1)
    with tempfile.TemporaryDirectory(prefix="bank-cluster-") as folder, _running(lab, keep=options.keep):
        return finish(progress, _run(lab, Path(folder), options.power_losses))


if __name__ == "__main__":
    sys.exit(main())
