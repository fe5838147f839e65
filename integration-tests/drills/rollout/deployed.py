"""Common parts of drills on a stack that Ansible deploys: releases, timelines, requests to canaries, thresholds."""

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.client import repeating
from harness.commands import check, info, run, start
from harness.deployed_stack import DeployedBank, Releases
from harness.load import Load, assert_no_duplicate_transfers, burst

# After a reload the previous NGINX workers serve persistent connections for this time.
RELOAD_SECONDS = 8.0


@dataclass
class DeployedDrill:
    """The stack, the releases, and the thresholds that were missed."""

    bank: DeployedBank
    releases: Releases
    rate: float
    short: bool
    replicas: tuple[int, ...]
    # Versions that have been promoted, in order: the last one is stable, the one before it the previous version.
    promoted: list[str] = field(default_factory=lambda: ["base"])
    missed: list[str] = field(default_factory=list)
    _good_releases: int = 0

    @property
    def stable(self) -> str:
        """The version that must be stable."""
        return self.promoted[-1]

    def check(self, threshold: str, value: object, met: Any) -> None:
        """Print a threshold with the measured value; record it if it is missed."""
        text = f"{threshold}: {value}"
        if not check(bool(met), text):
            self.missed.append(text)

    def build_good_release(self) -> Path:
        """Build a release without a fault; its version is the file name."""
        self._good_releases += 1
        return self.releases.derive(f"good-{self._good_releases}", "base", "none")

    def check_requests(self, name: str, result: Load) -> None:
        """Check that no request failed and that the ledger is consistent."""
        for line in result.failed[:5]:
            info(f"  failed: {line}")
        self.check(
            f"{name}: no failed requests",
            f"{len(result.failed)} of {result.sent}"
            f" ({result.throughput:.0f}/s of {self.rate:.0f}/s, slowest {result.slowest:.1f} s)",
            not result.failed,
        )
        assert_no_duplicate_transfers(self.bank, result)
        report = self.bank.reconciliation(60)
        self.check(
            f"{name}: ledger consistent and equal to the history",
            f"{report['mismatches']} mismatches, {report['pending']} pending",
            (report["mismatches"], report["pending"]) == (0, 0),
        )

    def check_only_stable_serves(self, name: str) -> None:
        """Check that all clients are routed to stable and no canary is left."""
        state, revision, canaries = self.bank.state(), self.bank.revision(), self.bank.containers("canary")
        self.check(
            f"{name}: rollout ended", f"{state['phase']} ({state['reason']})", state["phase"] in ("idle", "done")
        )
        self.check(f"{name}: NGINX's configuration is stable", revision, revision == "stable")
        self.check(f"{name}: no canary left", canaries or "none", not canaries)
        served = {(response.track, response.version) for response in burst(self.bank, map(str, range(200))).successful}
        self.check(
            f"{name}: all clients are served by stable {self.stable}",
            sorted(served),
            served == {("stable", self.stable)},
        )


@contextmanager
def deployed_bank(folder: Path, steps: dict[str, Any]) -> Iterator[tuple[DeployedBank, Releases]]:
    """Deploy the release `base` with these variables of the role, and yield the stack and the releases."""
    offline = bool(run(["docker", "images", "--quiet", "bank-offline/python:3.13"]).strip())
    with closing(Releases(folder, info)) as releases:
        base = releases.build("base", offline)
        with closing(DeployedBank(folder, releases.public_key, offline, steps)) as bank:
            done = bank.deploy(base)
            assert done.code == 0, done.output[-6000:]
            info(f"first deployment took {done.ended - done.began:.0f} s")
            bank.wait_until_answering()
            yield bank, releases


def print_timeline(state: dict[str, Any], began: float) -> None:
    """Print the history of a rollout and the metrics of its last verdict."""
    for event in state["history"]:
        share = f"{event['weight']:3} %"
        info(f"  {event['at'] - began:7.1f} s  {event['phase']:13} {share}  {event['reason']}")
    if verdict := state["verdict"]:
        figures = {name: value for name, value in verdict["figures"].items() if name != "invariants"}
        info(f"  last verdict: {verdict['verdict']} ({verdict['reason']}) {_summarize(figures)}")


@contextmanager
def record_canary_addresses(bank: DeployedBank) -> Iterator[set[str]]:
    """Collect the addresses of canaries while the block runs."""
    addresses: set[str] = set()
    with repeating(lambda: addresses.update(bank.canary_addresses()), every=1.0):
        yield addresses


def timestamp(text: str) -> float:
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{rest or 0}")


def canary_requests(
    log: list[dict[str, Any]], addresses: set[str], history: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the requests whose first upstream was a canary, during the rollout only, because addresses are reused."""
    started = next((event["at"] for event in history if event["phase"] == "canary"), float("inf"))
    ended = next((event["at"] for event in history if event["phase"] == "idle"), float("inf")) + RELOAD_SECONDS
    return [
        line
        for line in log
        if started <= timestamp(line["at"]) <= ended and line["upstream"].split(",")[0].split(" ")[0] in addresses
    ]


def _summarize(figures: dict[str, Any]) -> str:
    names = ("canary_requests", "canary_errors", "stable_requests", "stable_errors", "slower_seconds")
    return "; ".join(
        f"{service}: " + ", ".join(f"{name} {values[name]:.4g}" for name in names if values.get(name) is not None)
        for service, values in figures.items()
    )


def upstream_failed(line: dict[str, Any]) -> bool:
    return line["upstream_status"].split(",")[0].strip().startswith("5")


def any_request(_line: dict[str, Any]) -> bool:
    return True


def start_rollback(bank: DeployedBank) -> "subprocess.Popen[str]":
    """Start `make rollback`."""
    return start(["make", "rollback"], bank.rollback_environment())
