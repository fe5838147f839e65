"""Compares the resources that canary and stable use: CPU, memory, open files, threads and the event loop.

CPU time per request by handler, and event-loop lag, are compared like latencies (ranks.py), and must differ by a ratio.

Memory: a leak grows with the requests, from scrape to scrape; a process that is warming up grows in jumps, and stops.
In each scrape interval the canary either grew by `leak_bytes` per request or not. Wald's sequential test (1945, Ann.
Math. Statist. 16) compares a process that does so in 90 % of intervals with one that does so in 40 %; eight in a row
are enough. The canary must also have grown by more than a baseline replica of equal age, which has served the same
kinds of requests; without one, memory is not compared.
"""

import math
from collections.abc import Mapping, Sequence

from app.analysis import ranks
from app.analysis.model import Policy, ResourceCounts, ResourceUse, Finding

# The canary's most frequent handlers are compared; the level of each is 1/16 of the total (Bonferroni).
_MAX_HANDLERS = 16
_SUPERIORITY = 0.8
_GROWING, _LEAKING = 0.4, 0.9
# A canary three times as likely to leak as not is not promoted.
_SUSPICIOUS = math.log(3)


def compare_resources(counts: ResourceCounts, policy: Policy) -> dict[str, Finding]:
    """Return the results by the reason they stand for."""
    canary, stable = counts.canary, counts.stable
    return {
        "cpu": _worse_of(_compare_cpu(canary, stable, policy), _compare_cores(canary, stable, policy)),
        "memory": _compare_memory(counts, policy),
        "files": _compare_handles("open_files", canary.files, stable.files, policy),
        "threads": _compare_handles("threads", canary.threads, stable.threads, policy),
        "event-loop": _compare_lag(canary, stable, policy),
    }


def _worse_of(first: Finding, second: Finding) -> Finding:
    worse = first if first.worse else second
    return Finding(worse.worse, True, {**first.figures, **second.figures}, worse.detail)


def _compare_cpu(canary: ResourceUse, stable: ResourceUse, policy: Policy) -> Finding:
    """Compare the CPU time of each handler's requests; the figures are those with the strongest evidence."""
    level = policy.latency_alpha / _MAX_HANDLERS
    busiest = sorted(canary.cpu, key=lambda name: -canary.cpu[name].get("+Inf", 0.0))[:_MAX_HANDLERS]
    candidates = [
        (compared, name)
        for name in busiest
        if (compared := _compare_buckets(canary.cpu[name], stable.cpu.get(name, {}), level))
        and compared.superiority >= _SUPERIORITY
        and compared.mean >= policy.cpu_ratio * compared.other_mean
    ]
    if not candidates:
        return Finding(False, True, {})
    best, name = max(candidates, key=lambda candidate: candidate[0].z - candidate[0].boundary)
    figures = {"cpu_z": best.z, "cpu_z_limit": best.boundary, "cpu_ratio": best.mean / best.other_mean}
    return Finding(best.z >= best.boundary, True, figures, name)


def _compare_cores(canary: ResourceUse, stable: ResourceUse, policy: Policy) -> Finding:
    """Compare the CPU use of the processes, which includes work outside of requests, such as a busy loop."""
    figures = {"canary_cores": canary.cores, "stable_cores": stable.cores}
    if canary.cores is None or stable.cores is None:
        return Finding(False, True, figures)
    # At a high weight more clients are sent to a replica of the canary than to one of stable.
    expected = stable.cores * max(1.0, _served(canary) / max(1.0, _served(stable)))
    more_cores = canary.cores - expected >= policy.cpu_cores
    return Finding(more_cores and canary.cores >= policy.cpu_ratio * expected, True, figures, "process")


def _served(use: ResourceUse) -> float:
    """Return the requests of the busiest replica between its first and last scrape."""
    return max((memory[-1][0] - memory[0][0] for memory in use.memory if memory), default=0.0)


def _compare_lag(canary: ResourceUse, stable: ResourceUse, policy: Policy) -> Finding:
    comparison = _compare_buckets(canary.lag, stable.lag, policy.latency_alpha)
    if comparison is None:
        return Finding(False, True, {})
    slower = comparison.mean - comparison.other_mean
    relevant = comparison.superiority >= policy.min_superiority and slower >= policy.min_slower_seconds
    figures = {"event_loop_z": comparison.z, "later_seconds": slower}
    return Finding(relevant and comparison.z >= comparison.boundary, True, figures)


def _compare_handles(name: str, canary: float | None, stable: float | None, policy: Policy) -> Finding:
    figures = {f"canary_{name}": canary, f"stable_{name}": stable}
    if canary is None or stable is None:
        return Finding(False, True, figures)
    return Finding(canary - stable >= policy.min_handles and canary >= policy.handle_ratio * stable, True, figures)


def _compare_memory(counts: ResourceCounts, policy: Policy) -> Finding:
    """Look for a leak; without a baseline there is no result."""
    growths = [_growth(memory) for memory in counts.stable.memory]
    replicas = [memory for memory in counts.canary.memory if memory]
    if not counts.baseline or not growths or not replicas:
        return Finding(False, True, {"memory_evidence": None})
    evidence, more, per_request = max(
        (
            _leak_evidence(memory, policy),
            _growth(memory) - max(growths),
            _growth(memory) / max(1.0, memory[-1][0] - memory[0][0]),
        )
        for memory in replicas
    )
    figures = {"memory_evidence": evidence, "memory_growth_bytes": more, "memory_bytes_per_request": per_request}
    relevant = per_request >= policy.leak_bytes
    worse = relevant and more >= policy.min_growth_bytes and evidence >= -math.log(policy.memory_alpha)
    doubtful = relevant and more >= policy.min_growth_bytes / 3 and evidence >= _SUSPICIOUS
    return Finding(worse, not doubtful, figures)


def _growth(memory: Sequence[Sequence[float]]) -> float:
    """Return by how many bytes a replica has grown."""
    return memory[-1][1] - memory[0][1] if memory else 0.0


def _leak_evidence(memory: Sequence[Sequence[float]], policy: Policy) -> float:
    """Return the log-likelihood ratio of a leak, over the intervals with requests."""
    evidence = 0.0
    for (before, bytes_before), (after, bytes_after) in zip(memory, memory[1:]):
        if after <= before:
            continue
        grew = bytes_after - bytes_before >= policy.leak_bytes * (after - before)
        evidence += math.log(_LEAKING / _GROWING) if grew else math.log((1 - _LEAKING) / (1 - _GROWING))
    return evidence


def _compare_buckets(canary: Mapping[str, float], stable: Mapping[str, float], alpha: float) -> ranks.Comparison | None:
    """Compare two histograms with cumulative counts by `le`; None if they have too few bounds in common."""
    bounds = sorted((float(le), le) for le in canary.keys() & stable.keys())
    histograms = [[max(0.0, counts[le]) for _, le in bounds] for counts in (canary, stable)]
    if len(bounds) < 3 or bounds[-1][0] < math.inf or any(counts != sorted(counts) for counts in histograms):
        return None
    canary_counts, stable_counts = map(ranks.counts_per_bucket, histograms)
    return ranks.compare(canary_counts, stable_counts, [bound for bound, _ in bounds], alpha)
