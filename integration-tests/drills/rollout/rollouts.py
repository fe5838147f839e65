"""What a drill sees of a rollout: its timeline, the requests that canaries got, and whether anybody noticed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.client import repeating
from harness.commands import info
from harness.deployed_stack import DeployedBank, Releases
from harness.load import Load, assert_one_effect_each, burst

# A kept-alive client is served by a worker from before a reload for so long.
RELOAD_SECONDS = 8.0


@dataclass
class Drill:
    """The stack, the releases, and what was not as promised."""

    bank: DeployedBank
    releases: Releases
    rate: float
    short: bool
    replicas: tuple[int, ...]
    good: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def check(self, holds: Any, promise: str) -> None:
        """Take note of a promise that is not kept."""
        info(f"  {'ok  ' if holds else 'NOT '} {promise}")
        if not holds:
            self.wrong.append(promise)

    def next_good(self) -> Path:
        """Make the next release that is good."""
        version = f"good-{len(self.good)}"
        release = self.releases.derive(version, "base", "none")
        self.good.append(version)
        return release

    def check_quiet(self, result: Load, name: str) -> None:
        """Check that no client noticed, and that the books are sound."""
        for line in result.lost[:5]:
            info(f"  lost: {line}")
        self.check(
            not result.lost,
            f"{name}: {len(result.lost)} of {result.sent} requests failed"
            f" ({result.throughput:.0f}/s of {self.rate:.0f}/s wanted, slowest {result.slowest:.1f} s)",
        )
        assert_one_effect_each(self.bank, result)
        report = self.bank.reconciled(60)
        self.check(
            (report["mismatches"], report["pending"]) == (0, 0),
            f"{name}: the ledger holds; reconciliation: {report['mismatches']} mismatches, {report['pending']} pending",
        )

    def check_stable_alone(self, name: str, version: str) -> None:
        """Check that stable has everything and nothing of a rollout is left."""
        state = self.bank.state()
        self.check(state["phase"] in ("idle", "done"), f"{name}: the state is {state['phase']} ({state['reason']})")
        self.check(self.bank.revision() == "stable", f"{name}: NGINX serves by {self.bank.revision()}")
        self.check(not self.bank.containers("canary"), f"{name}: canaries left: {self.bank.containers('canary')}")
        served = {(one.track, one.version) for one in burst(self.bank, map(str, range(200))).served}
        self.check(served == {("stable", version)}, f"{name}: clients are served by {sorted(served)}")


def timeline(state: dict[str, Any], began: float) -> None:
    """Print what a rollout went through, and the figures of its last verdict."""
    for note in state["history"]:
        share = f"{note['weight']:3} %"
        info(f"  {note['at'] - began:7.1f} s  {note['phase']:13} {share}  {note['reason']}")
    if verdict := state["verdict"]:
        figures = {name: value for name, value in verdict["figures"].items() if name != "invariants"}
        info(f"  last verdict: {verdict['verdict']} ({verdict['reason']}) {short(figures)}")


@contextmanager
def watched(bank: DeployedBank) -> Iterator[set[str]]:
    """Yield the addresses of canaries, which are collected until the block ends."""
    found: set[str] = set()
    with repeating(lambda: found.update(bank.canary_addresses()), every=1.0):
        yield found


def moment(text: str) -> float:
    whole, _, rest = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{rest or 0}")


def canary_lines(log: list[dict[str, Any]], addresses: set[str], history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of requests that were sent to a canary first, while there was one: others get its address."""
    began = next((note["at"] for note in history if note["phase"] == "canary"), float("inf"))
    ended = next((note["at"] for note in history if note["phase"] == "idle"), float("inf")) + RELOAD_SECONDS
    return [
        line
        for line in log
        if began <= moment(line["at"]) <= ended and line["upstream"].split(",")[0].split(" ")[0] in addresses
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
