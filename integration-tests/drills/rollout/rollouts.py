"""Observation of a rollout in a drill: its timeline, the requests sent to canaries, and lost requests."""

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.client import repeating
from harness.commands import info, run
from harness.deployed_stack import DeployedBank, Releases
from harness.load import Load, assert_one_effect_each, burst

from shared.testing.paths import ROOT

# After a reload, a kept-alive connection may be served by the previous NGINX worker for this time.
RELOAD_SECONDS = 8.0


@dataclass
class Drill:
    """The stack, the releases, and the failed checks."""

    bank: DeployedBank
    releases: Releases
    rate: float
    short: bool
    replicas: tuple[int, ...]
    good: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def check(self, holds: Any, expectation: str) -> None:
        """Print an expectation and whether it holds; record it if not."""
        info(f"  {'ok    ' if holds else 'FAILED'} {expectation}")
        if not holds:
            self.failures.append(expectation)

    def next_good(self) -> Path:
        """Build the next good release."""
        version = f"good-{len(self.good)}"
        release = self.releases.derive(version, "base", "none")
        self.good.append(version)
        return release

    def check_no_loss(self, result: Load, name: str) -> None:
        """Check that no request was lost and the ledger is consistent."""
        for line in result.lost[:5]:
            info(f"  lost: {line}")
        self.check(
            not result.lost,
            f"{name}: {len(result.lost)} of {result.sent} requests failed"
            f" ({result.throughput:.0f}/s of {self.rate:.0f}/s, slowest {result.slowest:.1f} s)",
        )
        assert_one_effect_each(self.bank, result)
        report = self.bank.reconciled(60)
        self.check(
            (report["mismatches"], report["pending"]) == (0, 0),
            f"{name}: ledger consistent; {report['mismatches']} mismatches, {report['pending']} pending",
        )

    def check_only_stable_serves(self, name: str, version: str) -> None:
        """Check that all clients are routed to stable and no canary is left."""
        state = self.bank.state()
        self.check(state["phase"] in ("idle", "done"), f"{name}: the state is {state['phase']} ({state['reason']})")
        self.check(self.bank.revision() == "stable", f"{name}: NGINX's configuration is {self.bank.revision()}")
        self.check(not self.bank.containers("canary"), f"{name}: canaries left: {self.bank.containers('canary')}")
        served = {(one.track, one.version) for one in burst(self.bank, map(str, range(200))).served}
        self.check(served == {("stable", version)}, f"{name}: clients are served by {sorted(served)}")


@contextmanager
def deployed_bank(folder: Path, steps: dict[str, Any]) -> Iterator[tuple[DeployedBank, Releases]]:
    """Deploy the release `base` with these variables of the role, and yield the stack and the releases."""
    offline = bool(run(["docker", "images", "--quiet", "bank-offline/python:3.13"]).strip())
    with closing(Releases(folder, info)) as releases:
        base = releases.build("base", offline)
        with closing(DeployedBank(folder, releases.public_key, offline, steps)) as bank:
            done = bank.deploy(base)
            assert done.code == 0, done.output[-6000:]
            info(f"deployed for the first time in {done.ended - done.began:.0f} s")
            bank.wait_until_answering()
            yield bank, releases


def print_timeline(state: dict[str, Any], began: float) -> None:
    """Print the history of a rollout and the metrics of its last verdict."""
    for note in state["history"]:
        share = f"{note['weight']:3} %"
        info(f"  {note['at'] - began:7.1f} s  {note['phase']:13} {share}  {note['reason']}")
    if verdict := state["verdict"]:
        figures = {name: value for name, value in verdict["figures"].items() if name != "invariants"}
        info(f"  last verdict: {verdict['verdict']} ({verdict['reason']}) {short(figures)}")


@contextmanager
def record_canary_addresses(bank: DeployedBank) -> Iterator[set[str]]:
    """Collect the addresses of canaries while the block runs."""
    found: set[str] = set()
    with repeating(lambda: found.update(bank.canary_addresses()), every=1.0):
        yield found


def timestamp(text: str) -> float:
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{rest or 0}")


def canary_requests(
    log: list[dict[str, Any]], addresses: set[str], history: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the requests sent to a canary first, during the rollout: later containers may reuse its address."""
    began = next((note["at"] for note in history if note["phase"] == "canary"), float("inf"))
    ended = next((note["at"] for note in history if note["phase"] == "idle"), float("inf")) + RELOAD_SECONDS
    return [
        line
        for line in log
        if began <= timestamp(line["at"]) <= ended and line["upstream"].split(",")[0].split(" ")[0] in addresses
    ]


def short(figures: dict[str, Any]) -> str:
    wanted = ("canary_requests", "canary_errors", "stable_requests", "stable_errors", "slower_seconds")
    return "; ".join(
        f"{service}: " + ", ".join(f"{name} {of[name]:.4g}" for name in wanted if of.get(name) is not None)
        for service, of in figures.items()
    )


def failed(line: dict[str, Any]) -> bool:
    return line["upstream_status"].split(",")[0].strip().startswith("5")


def any_request(_line: dict[str, Any]) -> bool:
    return True


def rollback(bank: DeployedBank) -> "subprocess.Popen[str]":
    """Start `make rollback`."""
    return subprocess.Popen(  # pylint: disable=consider-using-with  # waited for by the caller
        ["make", "rollback"],
        cwd=ROOT,
        env=bank.rollback_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
