"""The simulation finds no violation in the bank, finds every mutation, and is deterministic."""

import os
import subprocess
import sys

import pytest

from shared.testing.fixtures import SEARCH_FACTOR, examples
from simulation.mutations import MUTATIONS, WITHOUT_RECOVERY, find, replaced
from simulation.run import run

from shared.testing.paths import ROOT

# make drills DRILL=simulation runs thousands, with any seed.
SEEDS = range(1, examples(30) + 1)
pytestmark = [
    # A crashed process returns no connections to its pool.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    # Only computes, and gives way to suites with stacks.
    pytest.mark.timeout(900 * SEARCH_FACTOR),
]


def test_no_seed_has_a_violation() -> None:
    outcomes = [run(seed) for seed in SEEDS]
    assert {outcome.seed: outcome.findings for outcome in outcomes if outcome.findings} == {}
    faults = sum((outcome.faults for outcome in outcomes), start=type(outcomes[0].faults)())
    # A simulation without faults proves nothing.
    assert faults["crash"] > len(SEEDS) and len(faults) > 12, faults


def test_a_broker_that_loses_nothing_delivers_everything() -> None:
    """Otherwise the mutations of the delivery would be found without being there."""
    with replaced(WITHOUT_RECOVERY):
        outcomes = [run(seed) for seed in SEEDS[: len(SEEDS) // 3]]
    assert {outcome.seed: outcome.findings for outcome in outcomes if outcome.findings} == {}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_found(name: str) -> None:
    assert find(name, [MUTATIONS[name].seen_in, *range(1, 301)]) is not None


def test_a_seed_is_reproducible_under_hash_randomization() -> None:
    program = "from simulation.run import run; print([run(seed).trace for seed in (3, 1, 2)])"
    traces = set()
    for hash_seed in ("1", "2"):
        path = f"{ROOT}:{ROOT / 'integration-tests'}"
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", program]
        traces.add(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert len(traces) == 1, traces
    assert str([run(seed).trace for seed in (3, 1, 2)]) in traces.pop()


def test_different_seeds_are_different_runs() -> None:
    assert len({run(seed).trace for seed in range(1, 6)}) == 5
