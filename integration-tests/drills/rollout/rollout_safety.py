"""Run rollouts with full and read-only disks, a frozen driver and two concurrent drivers: one version must remain.

    make drills DRILL=rollout_safety [ARGS="--only full-disk,frozen --rate 40"]

Deploys releases with Ansible from a dedicated registry on Docker, under load. Mounts small file systems at the folders
of the rollout state and of NGINX's selection, which requires root. Exits 1 when a threshold is missed.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from harness.client import eventually
from harness.commands import exit_code, info, run
from harness.load import customers
from drills.rollout.deployed import DeployedDrill, deployed_bank, print_timeline, start_rollback

from shared.testing.progress import Progress

# Thresholds.
MAX_SECONDS_AUTOMATIC_ROLLBACK = 30.0
MAX_SECONDS_MANUAL_ROLLBACK = 15.0
STEPS = {"nginx_canary_steps": [10, 50], "nginx_canary_bake_seconds": 20, "nginx_canary_step_timeout_seconds": 240}


class Disk:
    """A small tmpfs mounted at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0755", "none", str(folder)])

    def fill(self) -> None:
        """Fill the file system."""
        with (self.folder / "filler").open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 512)

    def read_only(self, on: bool) -> None:
        """Remount the file system read-only or writable."""
        run(["mount", "-o", f"remount,{'ro' if on else 'rw'}", str(self.folder)])

    def repair(self) -> None:
        """Make the file system writable and free the space."""
        self.read_only(False)
        (self.folder / "filler").unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount the file system, even while a container uses it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


def canary_at(weight: int, before: str, state: dict[str, Any]) -> bool:
    """Return whether a rollout other than the previous one sends this share of the clients to the canary."""
    return bool(state["id"] != before and state["phase"] == "canary" and state["weight"] == weight)


def check_end(drill: DeployedDrill, name: str) -> None:
    """Wait for the end of the rollout, and check that one version serves all clients."""
    bank = drill.bank
    eventually(lambda: bank.state()["phase"] in ("idle", "done") and not bank.containers("canary"), 120)
    print_timeline(bank.state(), bank.state()["history"][0]["at"])
    baselines = bank.containers("baseline")
    drill.check(f"{name}: no baseline left", baselines or "none", not baselines)
    drill.check_only_stable_serves(name)


def full_disk(drill: DeployedDrill, disks: list[Disk]) -> None:
    """The disks fill up at 10 %: rollout-service rolls a faulty canary back as usual, and so does `make rollback`."""
    bank = drill.bank
    with customers(bank, drill.rate) as result:
        before = bank.state()["id"]
        process = bank.start_deploy(drill.releases.derive("bad-errors", "base", "errors"))
        bank.wait_for_state(process, partial(canary_at, 10, before))
        check_automatic_rollback("full disk", drill, process, disks, Disk.fill)
        before = bank.state()["id"]
        process = bank.start_deploy(drill.build_good_release())
        bank.wait_for_state(process, partial(canary_at, 10, before))
        for disk in disks:
            disk.fill()
        check_manual_rollback(drill, "full disk", lambda: bank.revision() == "stable")
        repair(disks)
        process.communicate(timeout=600)
    drill.check_requests("full disk", result)
    check_end(drill, "full disk")


def read_only(drill: DeployedDrill, disks: list[Disk]) -> None:
    """The disks become read-only at 10 %: NGINX cannot be switched, so the canaries are removed."""
    bank = drill.bank
    with customers(bank, drill.rate) as result:
        before = bank.state()["id"]
        process = bank.start_deploy(drill.build_good_release())
        bank.wait_for_state(process, partial(canary_at, 10, before))
        for disk in disks:
            disk.read_only(True)
        check_manual_rollback(drill, "read-only", lambda: not bank.containers("canary"))
        repair(disks)
        process.communicate(timeout=600)
    drill.check_requests("read-only", result)
    check_end(drill, "read-only")


def check_automatic_rollback(
    name: str, drill: DeployedDrill, process: "subprocess.Popen[str]", disks: list[Disk], fault: Callable[[Disk], None]
) -> None:
    """Inject a disk fault; measure the time until rollout-service has rolled back a faulty canary."""
    for disk in disks:
        fault(disk)
    started = time.time()
    eventually(lambda: drill.bank.revision() == "stable", 120)
    took = time.time() - started
    drill.check(
        f"{name}: the faulty canary is rolled back after at most {MAX_SECONDS_AUTOMATIC_ROLLBACK:.0f} s",
        f"{took:.1f} s",
        took <= MAX_SECONDS_AUTOMATIC_ROLLBACK,
    )
    output, _ = process.communicate(timeout=600)
    drill.check(f"{name}: deployment fails", f"exit code {process.returncode}", process.returncode != 0)
    repair(disks)
    eventually(lambda: drill.bank.state()["phase"] == "idle", 60)
    if drill.bank.state()["outcome"] != "rolled-back":
        print(output[-3000:])


def check_manual_rollback(drill: DeployedDrill, name: str, without_traffic: Callable[[], bool]) -> None:
    """Measure the time from `make rollback` until the canary gets no traffic."""
    started = time.time()
    process = start_rollback(drill.bank)
    eventually(without_traffic, 120)
    took = time.time() - started
    drill.check(
        f"{name}: `make rollback` removes the canary from traffic after at most {MAX_SECONDS_MANUAL_ROLLBACK:.0f} s",
        f"{took:.1f} s",
        took <= MAX_SECONDS_MANUAL_ROLLBACK,
    )
    with suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=120)
    process.kill()


def repair(disks: list[Disk]) -> None:
    for disk in disks:
        disk.repair()


def frozen(drill: DeployedDrill, _disks: list[Disk]) -> None:
    """A driver freezes at 10 %, another one completes a deployment, the first one resumes: nothing changes."""
    bank = drill.bank
    before = bank.state()["id"]
    first = bank.start_deploy(drill.build_good_release())
    bank.wait_for_state(first, partial(canary_at, 10, before))
    os.killpg(first.pid, signal.SIGSTOP)
    started = time.time()
    try:
        eventually(lambda: bank.state()["phase"] == "idle" and bank.revision() == "stable", 240)
        info(f"  only stable serves, {time.time() - started:.0f} s after the driver froze")
        bank.detach_driver()
        second = drill.build_good_release()
        done = bank.deploy(second)
        drill.check(
            "frozen: another driver completes a deployment", f"after {done.ended - done.began:.0f} s", done.code == 0
        )
        if done.code:
            print(done.output[-4000:])
        else:
            drill.promoted.append(second.stem)
        promoted_id = bank.state()["id"]
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    output, _ = first.communicate(timeout=600)
    drill.check("frozen: the first driver fails after resuming", f"exit code {first.returncode}", first.returncode)
    message = " ".join(output.split())
    drill.check(
        "frozen: its message names the current rollout", repr(message[-200:]), "is not the current one" in message
    )
    time.sleep(5)
    state = bank.state()
    drill.check(
        "frozen: the second rollout stays promoted",
        f"{state['phase']}: {state['reason']}",
        (state["id"], state["outcome"]) == (promoted_id, "promoted"),
    )
    drill.check(f"frozen: {drill.stable} is recorded as deployed", bank.deployed(), bank.deployed() == drill.stable)
    check_end(drill, "frozen")


def two_drivers(drill: DeployedDrill, _disks: list[Disk]) -> None:
    """Two drivers deploy concurrently: one version is promoted and serves all clients."""
    bank = drill.bank
    releases = [drill.build_good_release(), drill.build_good_release()]
    drivers = []
    for release in releases:
        drivers.append(bank.start_deploy(release))
        bank.detach_driver()
    outputs = [driver.communicate(timeout=1200)[0] for driver in drivers]
    codes = [driver.returncode for driver in drivers]
    drill.check("two drivers: at least one succeeds", f"exit codes {codes}", 0 in codes)
    if codes.count(0) == 0:
        print("\n".join(output[-2000:] for output in outputs))
    if (state := bank.state())["outcome"] == "promoted":
        drill.promoted.append(state["version"])
    drill.check(
        f"two drivers: {drill.stable} is recorded as deployed", bank.deployed(), bank.deployed() == drill.stable
    )
    check_end(drill, "two drivers")


SCENARIOS: dict[str, Callable[[DeployedDrill, list[Disk]], None]] = {
    "full-disk": full_disk,
    "read-only": read_only,
    "frozen": frozen,
    "two-drivers": two_drivers,
}


@contextmanager
def small_disks(folder: Path) -> Iterator[list[Disk]]:
    """Mount small file systems for the rollout state and NGINX's selection."""
    with ExitStack() as stack:
        disks = [Disk(folder / "state"), Disk(folder / "host/var/docker/nginx/selected")]
        for disk in disks:
            stack.callback(disk.remove)
        yield disks


def run_scenarios(folder: Path, names: list[str], rate: float) -> list[str]:
    """Set up the stack, run the scenarios, and return the thresholds that were missed."""
    with small_disks(folder) as disks, deployed_bank(folder, STEPS) as (bank, releases):
        try:
            drill = DeployedDrill(bank, releases, rate, True, (1,))
            progress = Progress("drill rollout_safety", len(names))
            for name in names:
                progress.step(f"{name}: {(SCENARIOS[name].__doc__ or '').splitlines()[0]}")
                SCENARIOS[name](drill, disks)
            return drill.missed
        finally:
            repair(disks)


def main() -> int:
    """Run the selected scenarios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SCENARIOS), help=f"some of: {', '.join(SCENARIOS)}")
    parser.add_argument("--rate", type=float, default=40, help="requests per second (default 40)")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - SCENARIOS.keys():
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        info("error: this drill mounts file systems, so it must run as root")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        missed = run_scenarios(Path(folder), names, options.rate)
    info(f"{len(names)} scenarios, {len(missed)} thresholds missed")
    return exit_code(missed)


if __name__ == "__main__":
    sys.exit(main())
