"""The tests of outcomes and retries on plain counts."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from app.analysis.model import INVARIANTS, OutcomeCounts, Policy, Samples, ServiceCounts, Verdict
from app.analysis.outcomes import compare_outcomes, compare_retries
from app.analysis.verdict import evaluate
from tests.test_verdict import track

POLICY = Policy()
CALM = {"2xx": {str(bucket): 100.0 for bucket in range(64)}, "404": {"1": 64.0}}


def counts(bad: float, total: float, buckets: int, stable_bad: float = 10, outcome: str = "404") -> OutcomeCounts:
    """Return outcomes of a canary whose unsuccessful requests are spread over a number of buckets."""
    clients = {outcome: dict.fromkeys(map(str, range(buckets)), bad / buckets), "2xx": {"60": total - bad}}
    name = f"{outcome} some-code GET /api/v1/accounts"
    return OutcomeCounts("service", total, 1000, {name: bad}, {name: stable_bad}, clients, CALM)


def test_a_canary_that_refuses_everybody_is_worse() -> None:
    result = compare_outcomes(counts(20, 20, 12), POLICY)
    assert result.worse and result.detail == "404 some-code GET /api/v1/accounts"
    assert result.figures["canary 404 some-code GET /api/v1/accounts"] == 20


@pytest.mark.parametrize(
    "mild",
    [
        counts(2, 2, 2),
        # One or a few clients, however many requests they send.
        counts(5000, 6000, 1),
        counts(5000, 6000, 6),
        # As stable, and too little to matter.
        counts(10, 1000, 40),
        counts(200, 20_000, 60, stable_bad=0),
        counts(100, 200, 40, stable_bad=400),
    ],
    ids=["two requests", "one client", "six clients", "equal", "below the floor", "below the ratio"],
)
def test_what_is_no_fault_is_acceptable(mild: OutcomeCounts) -> None:
    result = compare_outcomes(mild, POLICY)
    assert result.acceptable and not result.worse


def test_both_tests_have_to_reject() -> None:
    fault = counts(60, 100, 40)
    assert compare_outcomes(fault, POLICY).worse
    for one in (replace(fault, canary_clients={}), replace(fault, stable_clients={}), replace(fault, stable_total=0)):
        assert not compare_outcomes(one, POLICY).worse


def test_a_fault_of_several_handlers_counts_in_total() -> None:
    """Each of them has too few requests."""
    whole = counts(12, 24, 12)
    parts = {f"404 not-found GET /api/v1/{number}": 1.0 for number in range(12)}
    assert compare_outcomes(replace(whole, canary=parts), POLICY).detail == "404"


def test_unusual_sticky_clients_are_no_fault() -> None:
    """The heaviest client is the canary's and half of its requests fail; nobody else's do."""
    for seed in range(20):
        chance = random.Random(seed)
        clients = [(chance.randrange(64), 1 / (rank + 1), 0.5 if rank in (0, 7, 11) else 0.01) for rank in range(300)]
        tracks = []
        for sent, members in ((900, [0, *range(5, 40)]), (8000, list(range(300)))):
            found: Counter[tuple[str, str]] = Counter()
            for client in chance.choices(members, [clients[member][1] for member in members], k=sent):
                bucket, _, share = clients[client]
                found["409" if chance.random() < share else "2xx", str(bucket)] += 1
            tracks.append(found)
        by_client = [
            {outcome: {b: float(n) for (o, b), n in found.items() if o == outcome} for outcome in ("409", "2xx")}
            for found in tracks
        ]
        bad = [{"409 x": sum(client["409"].values())} for client in by_client]
        assert not compare_outcomes(OutcomeCounts("s", 900, 8000, *bad, *by_client), POLICY).worse, seed


# Retries --------------------------------------------------------------------------------------------------------------


def retried(bad: float, total: float) -> OutcomeCounts:
    return OutcomeCounts("service", total, 1000, {}, {}, retried=bad)


@pytest.mark.parametrize("bad, total", [(5, 5), (6, 20), (20, 200), (7, 3)])
def test_requests_that_only_stable_answers_are_a_fault(bad: float, total: float) -> None:
    assert compare_retries(retried(bad, total), POLICY).worse


@pytest.mark.parametrize("bad, total", [(0, 0), (4, 4), (5, 500), (100, 10_000)])
def test_races_are_tolerated(bad: float, total: float) -> None:
    assert not compare_retries(retried(bad, total), POLICY).worse


def test_an_equal_canary_is_rarely_worse_at_any_look() -> None:
    wrong = 0
    for seed in range(400):
        chance, bad = random.Random(seed), 0
        for total in range(1, 1000):
            if chance.random() < POLICY.retry_floor:
                bad += 1
                if compare_retries(retried(bad, total), POLICY).worse:
                    wrong += 1
                    break
    assert wrong <= 4


# Requests without a response ------------------------------------------------------------------------------------------


def hung(unanswered: float, answered: float = 0, stable_slow: float = 0) -> Verdict:
    """Return the verdict on a canary that has not answered some requests, next to 900 of stable."""
    counts = OutcomeCounts("service", answered, 900, {}, {}, unanswered=unanswered, stable_slow=stable_slow)
    healthy = ServiceCounts("service", track(9000), track(1000))
    return evaluate(Samples(120.0, (healthy,), dict.fromkeys(INVARIANTS, 0.0), outcomes=(counts,)), POLICY)


@pytest.mark.parametrize(("unanswered", "answered"), [(4, 0), (30, 0), (5, 100), (60, 1000)])
def test_a_canary_that_hangs_is_rolled_back(unanswered: float, answered: float) -> None:
    verdict = hung(unanswered, answered)
    assert (verdict.verdict, verdict.reason) == ("rollback", "no-response")
    assert verdict.figures["service"]["canary_unanswered"] == unanswered


@pytest.mark.parametrize(
    ("unanswered", "answered", "stable_slow", "expected"),
    [
        (0, 10, 0, "promote"),
        # A few among many, and a disk that stalls both versions.
        (1, 1000, 0, "promote"),
        (2, 20, 0, "hold"),
        (20, 80, 180, "promote"),
        (3, 97, 2, "hold"),
    ],
)
def test_a_canary_that_stalls_as_stable_does_is_not_rolled_back(
    unanswered: float, answered: float, stable_slow: float, expected: str
) -> None:
    verdict = hung(unanswered, answered, stable_slow)
    assert verdict.verdict == expected
    assert verdict.reason == ("healthy" if expected == "promote" else "no-response")


def test_a_canary_whose_metrics_are_missing_is_rolled_back_when_it_hangs() -> None:
    counts = OutcomeCounts("service", 0, 900, {}, {}, unanswered=10)
    frozen = Samples(20.0, (ServiceCounts("service", track(900), None),), {}, outcomes=(counts,))
    assert evaluate(frozen, POLICY).reason == "no-response"


# The verdict ----------------------------------------------------------------------------------------------------------


def test_the_verdict_names_the_outcome() -> None:
    service = ServiceCounts("service", track(9000), track(1000))
    samples = Samples(120.0, (service,), dict.fromkeys(INVARIANTS, 0.0), outcomes=(counts(60, 100, 40),))
    verdict = evaluate(samples, POLICY)
    assert (verdict.verdict, verdict.reason) == ("rollback", "outcomes")
    assert verdict.detail == "404 some-code GET /api/v1/accounts"
    assert evaluate(replace(samples, outcomes=(retried(50, 100),)), POLICY).reason == "retries"
    assert evaluate(replace(samples, outcomes=(counts(1, 100, 1),)), POLICY).verdict == "promote"
    assert evaluate(replace(samples, outcomes=None), POLICY).reason == "no-data"
