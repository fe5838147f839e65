"""Measurements of the benchmark and statistics on them: pure functions on plain data, and CPU time from /proc."""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """The benchmark has no valid result."""


class Load(NamedTuple):
    """Result of a load generator: number of operations, duration in seconds, latencies in ms."""

    operations: int
    seconds: float
    p50: float
    p99: float

    @property
    def per_second(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


@dataclass(frozen=True)
class Run:
    """One measurement: operations per second, latencies in ms, CPU µs per operation by process."""

    variant: str
    accounts: int
    per_second: float
    p50: float
    p99: float
    cpu: dict[str, float]


class Check(NamedTuple):
    """A measured value and its threshold; `sign` is ">=" or "<="."""

    what: str
    value: float
    sign: str
    threshold: float

    @property
    def met(self) -> bool:
        """Whether the threshold is met."""
        return self.value >= self.threshold if self.sign == ">=" else self.value <= self.threshold


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU time of each process and its children, including children that have ended."""
    spent = dict.fromkeys(pids, 0.0)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            continue
        for process, pid in pids.items():
            if pid in (int(stat.parent.name), int(fields[1])):
                spent[process] += sum(int(field) for field in fields[11:15]) / _TICKS
    return spent


def measure(variant: str, accounts: int, load: Callable[[], Load], pids: Mapping[str, int]) -> Run:
    """Run a load and measure the CPU time of the processes meanwhile."""
    before = cpu_seconds(pids)
    result = load()
    if not result.operations:
        raise Failure(f"{variant} completed no operation")
    cpu = {process: (spent - before[process]) / result.operations * 1e6 for process, spent in cpu_seconds(pids).items()}
    return Run(variant, accounts, result.per_second, result.p50, result.p99, cpu)


def median_of(runs: Sequence[Run], variant: str, accounts: int, value: Callable[[Run], float]) -> float:
    """Return the median of a value over the rounds of one variant."""
    return statistics.median(value(run) for run in runs if (run.variant, run.accounts) == (variant, accounts))


def ratio(runs: Sequence[Run], variant: str, accounts: int, base: str) -> float:
    """Return the median over rounds of the variant's throughput divided by the base's in the same round."""
    pairs = zip(
        (run.per_second for run in runs if (run.variant, run.accounts) == (variant, accounts)),
        (run.per_second for run in runs if (run.variant, run.accounts) == (base, accounts)),
        strict=True,
    )
    return statistics.median(own / other for own, other in pairs)


def table(runs: Sequence[Run], bases: Sequence[str]) -> list[dict[str, object]]:
    """Return one row per number of accounts and variant, with its ratios to the `bases`."""
    rows: list[dict[str, object]] = []
    for accounts, variant in dict.fromkeys((run.accounts, run.variant) for run in runs):
        row: dict[str, object] = {
            "accounts": accounts,
            "variant": variant,
            "per_second": round(median_of(runs, variant, accounts, lambda run: run.per_second)),
            "p50_ms": round(median_of(runs, variant, accounts, lambda run: run.p50), 1),
            "p99_ms": round(median_of(runs, variant, accounts, lambda run: run.p99), 1),
        }
        row |= {f"to_{base}": round(ratio(runs, variant, accounts, base), 2) for base in bases}
        for process in runs[0].cpu:
            row[f"cpu_{process}_us"] = round(
                median_of(runs, variant, accounts, lambda run, process=process: run.cpu[process])  # type: ignore[misc]
            )
        rows.append(row)
    return rows
