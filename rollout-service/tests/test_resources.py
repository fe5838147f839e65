"""The tests of resources on plain figures."""

import math
import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from app.analysis.model import INVARIANTS, Policy, ResourceCounts, ResourceUse, Samples, ServiceCounts, Finding
from app.analysis.resources import compare_resources
from app.analysis.verdict import evaluate
from tests.test_verdict import track

POLICY = Policy()
BOUNDS = ("0.00025", "0.0005", "0.001", "0.002", "0.004", "0.008", "+Inf")


def histogram(*counts: float) -> dict[str, float]:
    """Return cumulative counts."""
    return {le: float(sum(counts[: index + 1])) for index, le in enumerate(BOUNDS)}


def memory(intervals: int, growth: int, requests: int = 25, start: int = 90_000_000) -> tuple[tuple[float, float], ...]:
    """Return a replica's memory at each scrape."""
    return tuple((float(n * requests), float(start + n * growth)) for n in range(intervals + 1))


STABLE = ResourceUse(
    {"POST /a": histogram(0, 300, 600, 100), "GET /b": histogram(500, 400)},
    histogram(50, 40, 10),
    cores=0.3,
    files=60,
    threads=9,
    memory=(memory(9, 20_000, 200),),
)
CANARY = replace(STABLE, cpu={"POST /a": histogram(0, 30, 60, 10), "GET /b": histogram(50, 40)}, cores=0.1)
EQUAL = ResourceCounts("service", CANARY, STABLE, True)


def results(**changes: object) -> Mapping[str, Finding]:
    """Return the results for a canary with some changes."""
    return compare_resources(replace(EQUAL, canary=replace(CANARY, **changes)), POLICY)  # type: ignore[arg-type]


def worse(**changes: object) -> list[str]:
    """Return what is worse."""
    return [reason for reason, result in results(**changes).items() if result.worse]


def test_equal_use_is_acceptable() -> None:
    assert all(result.acceptable and not result.worse for result in results().values())


def test_a_handler_that_takes_three_times_the_cpu_is_found() -> None:
    found = results(cpu={**CANARY.cpu, "POST /a": histogram(0, 0, 6, 20, 14)})["cpu"]
    assert found.worse and found.detail == "POST /a"
    # Another mix of handlers, a single slow request, half as much again, or a handler that only the canary has.
    assert worse(cpu={"POST /a": histogram(0, 300, 600, 100)}) == []
    assert worse(cpu={"POST /a": histogram(0, 30, 60, 9, 0, 0, 1)}) == []
    assert worse(cpu={"POST /a": histogram(0, 20, 60, 40)}) == []
    assert worse(cpu={"POST /new": histogram(0, 0, 0, 0, 0, 100)}) == []


def test_a_process_that_never_rests_is_found() -> None:
    found = results(cores=1.0)["cpu"]
    assert found.worse and found.detail == "process"
    assert worse(cores=0.7) == worse(cores=None) == []
    # A replica that serves four times the requests of a stable one may use four times the CPU.
    assert worse(cores=1.0, memory=(memory(9, 80_000, 800),)) == []


def test_a_late_event_loop_is_found() -> None:
    assert worse(lag={**histogram(10, 10, 10, 10, 10, 10), "+Inf": 1000.0}) == []
    late = {"0.001": 0.0, "0.05": 10.0, "0.25": 200.0, "+Inf": 200.0}
    early = {"0.001": 150.0, "0.05": 200.0, "0.25": 200.0, "+Inf": 200.0}
    counts = ResourceCounts("service", replace(CANARY, lag=late), replace(STABLE, lag=early), True)
    assert compare_resources(counts, POLICY)["event-loop"].worse


@pytest.mark.parametrize("name", ["files", "threads"])
def test_leaking_handles_are_found(name: str) -> None:
    assert worse(**{name: 200.0}) == [name]
    assert worse(**{name: 55.0}) == worse(**{name: None}) == []


def test_a_leak_of_20_kb_per_request_is_found() -> None:
    leak = memory(8, 20_000 * 25)
    assert worse(memory=(leak,)) == ["memory"]
    assert worse(memory=(memory(8, 1000), leak)) == ["memory"]
    # Not decided yet, but too suspicious for a promotion.
    early = results(memory=(memory(3, 20_000 * 25),))["memory"]
    assert not early.worse and not early.acceptable


def test_memory_needs_a_baseline_and_a_steady_growth() -> None:
    leak = replace(CANARY, memory=(memory(20, 20_000 * 25),))
    for counts in (
        replace(EQUAL, canary=leak, baseline=False),
        replace(EQUAL, canary=leak, stable=replace(STABLE, memory=())),
        # The baseline grows as well.
        replace(EQUAL, canary=leak, stable=replace(STABLE, memory=(memory(20, 600_000, 200),))),
    ):
        assert compare_resources(counts, POLICY)["memory"].acceptable
    assert compare_resources(replace(EQUAL, canary=leak, baseline=False), POLICY)["memory"].figures == {
        "memory_evidence": None
    }
    # Warming up: large jumps, then nothing.
    jumps = tuple((25.0 * n, 90e6 + 3e6 * min(n, 3)) for n in range(12))
    assert results(memory=(jumps,))["memory"].acceptable
    assert worse(memory=((),)) == worse(memory=()) == []


def test_jumps_of_an_equal_process_are_rarely_a_leak() -> None:
    wrong = 0
    for seed in range(300):
        chance, size, points = random.Random(seed), 90e6, [(0.0, 90e6)]
        for number in range(1, 25):
            size += chance.choice((0, 0, 0, 0, 262_144, 524_288, 1_048_576))
            points.append((25.0 * number, size))
            if worse(memory=(tuple(points),)):
                wrong += 1
                break
    assert wrong <= 6


@pytest.mark.parametrize("odd", [math.nan, -1.0])
def test_invalid_figures_are_no_fault(odd: float) -> None:
    assert worse(cores=odd, files=odd, threads=odd, lag={"1": odd, "2": 3.0, "+Inf": odd}) == []


def test_the_verdict_names_the_handler() -> None:
    busy = replace(CANARY, cpu={"POST /a": histogram(0, 0, 6, 20, 14)})
    services = (ServiceCounts("service", track(9000), track(1000)),)
    samples = Samples(120.0, services, dict.fromkeys(INVARIANTS, 0.0), resources=(replace(EQUAL, canary=busy),))
    verdict = evaluate(samples, POLICY)
    assert (verdict.verdict, verdict.reason, verdict.detail) == ("rollback", "cpu", "POST /a")
    assert evaluate(replace(samples, resources=(EQUAL,)), POLICY).verdict == "promote"
    assert evaluate(replace(samples, resources=None), POLICY).reason == "no-data"
