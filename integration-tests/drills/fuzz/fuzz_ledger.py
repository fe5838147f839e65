"""Run a million random operations on the ledger and on a simple model, and check that they agree.

    make drills DRILL=fuzz_ledger [ARGS="--steps 1000000 --seed 1"]

The state machine of account-service's tests runs in rounds with consecutive seeds on all cores, on SQLite without
threads. Prints steps and rate; exits 1 if a round fails, with the minimal failing example, or if fewer steps were run
than requested.
"""

import argparse
import itertools
import math
import os
import shutil
import sqlite3
import sys
import tempfile
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from app.models import metadata
from harness.commands import check
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import invariant, run_state_machine_as_test
from sqlalchemy import create_engine as create_sync_engine
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.test_property import Bank

from shared.testing import lab_keys
from shared.db.database import create_engine
from shared.testing.fixtures import Lab
from simulation import sqlite

EXAMPLES, LENGTH = 50, 100
_MEMORY = Path("/dev/shm")  # nosec B108  # tmpfs, if available


class QuickBank(Bank):
    """The state machine on in-memory databases, with one shared engine, which caches compiled statements."""

    template: Path
    shared_engine: AsyncEngine | None = None
    steps = 0

    def new_database(self, file: Path) -> AsyncEngine:
        shutil.copyfile(self.template, file)
        self.reader = sqlite3.connect(file, isolation_level=None)
        sqlite.OPENERS["ledger"] = lambda: sqlite.Connection(str(file))
        if QuickBank.shared_engine is None:
            QuickBank.shared_engine = create_engine("sqlite+inline://ledger/")
        return QuickBank.shared_engine

    @invariant()
    def service_and_model_agree(self) -> None:
        """Compare service and model, as the base class does after every step, and count the step."""
        QuickBank.steps += 1
        query = "SELECT id, balance, balance - held, status FROM accounts WHERE kind = 'customer'"
        assert {id_: rest for id_, *rest in self.reader.execute(query)} == {
            id_.replace("-", ""): [model.balance, model.available, model.status] for id_, model in self.model.items()
        }

    def teardown(self) -> None:
        self.reader.close()
        super().teardown()


def run_round(number: int, scratch: str) -> tuple[int, int, str]:
    """Run one round; return its seed, the number of steps, and the failure if there was one."""
    tempfile.tempdir = scratch
    QuickBank.lab = Lab(lab_keys.ensure(Path(scratch)))
    QuickBank.template = Path(scratch) / "template.db"
    QuickBank.steps = 0
    try:
        run_state_machine_as_test(
            seed(number)(QuickBank),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=LENGTH,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, Phase.shrink],
            ),
        )
    except BaseException:  # pylint: disable=broad-exception-caught  # any error is a finding
        return number, QuickBank.steps, traceback.format_exc()
    return number, QuickBank.steps, ""


def prepare(scratch: str) -> None:
    """Create the keys and the template database of all rounds."""
    lab_keys.ensure(Path(scratch))
    engine = create_sync_engine(f"sqlite:///{scratch}/template.db")
    metadata.create_all(engine)
    engine.dispose()


def main() -> int:
    """Run rounds until there are enough steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000, help="minimum number of steps (default 1000000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first round (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="concurrent rounds (default: all cores)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time limit in minutes (default: none)")
    options = parser.parse_args()
    started, steps, rounds, findings = time.monotonic(), 0, 0, 0
    numbers = itertools.count(options.seed)
    memory = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as scratch, ProcessPoolExecutor(options.jobs) as pool:
        prepare(scratch)
        running: set[Any] = {pool.submit(run_round, next(numbers), scratch) for _ in range(options.jobs)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for number, round_steps, finding in (one.result() for one in done):
                steps, rounds = steps + round_steps, rounds + 1
                if finding:
                    findings += 1
                    print(
                        f"{finding}\nFAILURE in round {number}; reproduce with: --steps 1 --seed {number}", flush=True
                    )
                if steps < options.steps and not findings and time.monotonic() - started < options.minutes * 60:
                    running.add(pool.submit(run_round, next(numbers), scratch))
                if rounds % 20 == 0:
                    print(f"  {steps:,} steps, {time.monotonic() - started:.0f} s", flush=True)
    seconds = time.monotonic() - started
    met = steps >= options.steps and not findings
    check(
        met,
        f"{steps:,} steps in {rounds} rounds from seed {options.seed}, {findings} findings"
        f" (threshold: {options.steps:,} steps, none found); {seconds:.0f} s, {steps / seconds:.0f} steps/s",
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
