"""Compares the outcomes of canary and stable: statuses, problem codes, and posted and refused transactions.

Each outcome is a 2 x 2 table: unsuccessful with it or not, of the canary or of stable. If the versions are equal, a
request is the canary's with the same probability whatever its outcome. The e-process is the ratio of a Beta mixture of
two probabilities to the maximum likelihood of a single one (universal inference: Wasserman, Ramdas and Balakrishnan
2020, PNAS 117; mixtures of this kind for counts: Lindon and Malek 2022, NeurIPS 35). It exceeds 1 / alpha at any look
with a probability of at most alpha (Ville 1939). With `_MAX_STREAMS` tables, its level is a share of alpha.

That holds for independent requests. They are not: a client stays with its version, so one unusual client of the canary
is enough for a difference. Therefore the difference must also show across the clients, which are in buckets by hash.
With d the canary's count in a bucket less the one expected from stable's share there, the statistic is
sum(d) / sqrt(sum(d^2)): if the versions are equal and d is symmetric, it exceeds t with a probability of at most
exp(-t^2 / 2) (Efron 1969, JASA 64; de la Pena, Klass and Lai 2004, Ann. Probab. 32). A single bucket cannot bring it
above 1, however heavy its clients are. Both have to reject (an intersection-union test, as in verdict.py), and the
difference must be large enough. The test of retries covers outcomes of only a few clients.

Retries: NGINX repeats on stable each request in which the canary did not succeed. If stable succeeds, one request had
two outcomes, so differences between clients cannot be the cause; only races can (the history caught up meanwhile). The
e-process is the average of likelihood ratios of several shares against the tolerated one.
"""

import math
from collections.abc import Mapping

from app.analysis.model import OutcomeCounts, Policy, Finding

# More than the number of outcomes of a service; the level of each is 1/64 of the total (Bonferroni).
_MAX_STREAMS = 64
# Stable's share in a bucket is shrunk towards that of all buckets, with the weight of this many requests.
_PRIOR_REQUESTS = 5.0
# A bucket counts as at most this many requests, so that the heaviest client does not hide the others.
_MAX_WEIGHT = 3.0
_RETRIED_SHARES = (0.03, 0.1, 0.3, 0.9)


def compare_outcomes(counts: OutcomeCounts, policy: Policy) -> Finding:
    """Compare the mix of outcomes; the figures are those of the outcome with the strongest evidence."""
    canary, stable = _with_totals(counts.canary), _with_totals(counts.stable)
    candidates = [
        (
            _log_evidence(failed, counts.canary_total, stable.get(outcome, 0.0), counts.stable_total),
            _client_statistic(counts, outcome.partition(" ")[0]),
            outcome,
        )
        for outcome, failed in canary.items()
        if _is_relevant(failed, counts.canary_total, stable.get(outcome, 0.0), counts.stable_total, policy)
    ]
    evidence_limit = math.log(_MAX_STREAMS / policy.outcome_alpha)
    client_limit = math.sqrt(-2 * math.log(policy.client_alpha))
    # By the weaker of both tests, then by evidence; among equal ones, the most specific name.
    ranked = max(
        (
            (min(evidence / evidence_limit, clients / client_limit), evidence, clients, name)
            for evidence, clients, name in candidates
        ),
        key=lambda candidate: (candidate[0], candidate[1], len(candidate[3])),
        default=None,
    )
    if ranked is None:
        return Finding(False, True, {"outcome_evidence": None, "outcome_clients": None})
    strength, evidence, clients, name = ranked
    figures = {
        **{"outcome_evidence": evidence, "outcome_evidence_limit": evidence_limit},
        **{"outcome_clients": clients, "outcome_clients_limit": client_limit},
        **{f"canary {name}": canary[name], f"stable {name}": stable.get(name, 0.0)},
    }
    return Finding(strength >= 1, True, figures, name)


def compare_retries(counts: OutcomeCounts, policy: Policy) -> Finding:
    """Test the share of the canary's requests that only stable answered with success."""
    # Stable may have been scraped after the canary.
    total, failed = max(counts.canary_total, counts.retried), counts.retried
    floor = policy.retry_floor
    ratios = [
        failed * math.log(share / floor) + (total - failed) * math.log((1 - share) / (1 - floor))
        for share in _RETRIED_SHARES
        if share > floor
    ]
    evidence = _log_mean(ratios) if ratios else 0.0
    worse = failed >= policy.min_retries and evidence >= -math.log(policy.retry_alpha)
    return Finding(worse, True, {"retried": failed, "retried_evidence": evidence})


def _with_totals(counts: Mapping[str, float]) -> dict[str, float]:
    """Return the counts, and their sums by outcome."""
    totals = dict(counts)
    for name, count in counts.items():
        if (outcome := name.partition(" ")[0]) != name:
            totals[outcome] = totals.get(outcome, 0.0) + count
    return totals


def _is_relevant(failed: float, total: float, stable_failed: float, stable_total: float, policy: Policy) -> bool:
    """Return whether the canary's share of an outcome is so much larger that it matters."""
    if not total or not stable_total:
        return False
    share, stable_share = failed / total, stable_failed / stable_total
    return share - stable_share >= policy.outcome_floor and share >= policy.outcome_ratio * stable_share


def _log_evidence(failed: float, total: float, stable_failed: float, stable_total: float) -> float:
    """Return the logarithm of the e-process of a 2 x 2 table."""
    both = total + stable_total
    equal = total * math.log(total / both) + stable_total * math.log(stable_total / both)
    return _log_mixture(failed, stable_failed) + _log_mixture(total - failed, stable_total - stable_failed) - equal


def _log_mixture(first: float, second: float) -> float:
    """Return the log-likelihood of a sequence of two kinds under Jeffreys' prior, Beta(1/2, 1/2)."""
    return math.lgamma(first + 0.5) + math.lgamma(second + 0.5) - math.lgamma(first + second + 1) - math.log(math.pi)


def _client_statistic(counts: OutcomeCounts, outcome: str) -> float:
    """Return the self-normalized sum over the buckets of clients; 0 without any."""
    totals, stable_totals = _totals_by_bucket(counts.canary_clients), _totals_by_bucket(counts.stable_clients)
    failed, stable_failed = counts.canary_clients.get(outcome, {}), counts.stable_clients.get(outcome, {})
    weights = {bucket: min(total, _MAX_WEIGHT) for bucket, total in stable_totals.items() if total}
    if not weights:
        return 0.0
    # The mean over buckets, not requests: the heaviest client must not define what is expected of the others.
    shares = sum(weight * stable_failed.get(bucket, 0.0) / stable_totals[bucket] for bucket, weight in weights.items())
    overall = shares / sum(weights.values())
    differences = []
    for bucket, total in totals.items():
        prior = _PRIOR_REQUESTS * overall
        share = (stable_failed.get(bucket, 0.0) + prior) / (stable_totals.get(bucket, 0.0) + _PRIOR_REQUESTS)
        if total:
            weight = min(total, _MAX_WEIGHT)
            differences.append(weight * (failed.get(bucket, 0.0) / total - share))
    spread = math.sqrt(sum(difference**2 for difference in differences))
    return sum(differences) / spread if spread else 0.0


def _totals_by_bucket(clients: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for buckets in clients.values():
        for bucket, count in buckets.items():
            totals[bucket] = totals.get(bucket, 0.0) + count
    return totals


def _log_mean(values: list[float]) -> float:
    """Return the logarithm of the mean of exponentials."""
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values) / len(values))
