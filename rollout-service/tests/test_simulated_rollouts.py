"""A few simulated rollouts; the drill `verdict` runs thousands."""

import pytest

from tests.simulated_rollouts import Population, roll_out, seconds_to_roll_back


@pytest.mark.parametrize(
    ("fault", "reason", "most"),
    [
        ("401-all", "retries", 10),
        ("409-half", "retries", 30),
        ("409-half, stored", "outcomes", 90),
        ("no-events", "events", 10),
        ("hang", "no-response", 20),
        ("hang-1-in-20", "no-response", 60),
        ("cpu-x3", "cpu", 45),
    ],
)
def test_a_fault_is_found_soon(fault: str, reason: str, most: float) -> None:
    for seed in range(2):
        seconds, _, found = seconds_to_roll_back(fault, Population(50), f"{fault} {seed}")
        assert (found, seconds <= most) == (reason, True)


@pytest.mark.parametrize(
    "population",
    [Population(20), Population(50, 200, 1.5, "unusual"), Population(20, stalls=0.2)],
    ids=["usual", "unusual", "stalls"],
)
def test_equal_versions_are_promoted(population: Population) -> None:
    assert {roll_out(population, f"{seed}") for seed in range(3)} == {"promoted"}
