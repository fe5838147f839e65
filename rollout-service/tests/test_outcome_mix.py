"""The mix of outcomes side by side, as the operations page shows it."""

import json
from dataclasses import replace
from pathlib import Path

import httpx

from app import api, state_machine
from app.analysis.model import OutcomeCounts, Samples, ServiceCounts
from app.analysis.outcome_mix import outcome_mix
from app.analysis.runner import Analyzer
from app.analysis.samples import PrometheusSamples
from app.settings import RolloutSettings
from shared.testing.fixtures import Lab
from tests.fake_stack import NOW, at_step, verdict
from tests.test_verdict import track

COUNTS = OutcomeCounts(
    "account-service", 90, 1000, {"404 not-found GET /a": 9, "409 x POST /b": 18}, {"409 x POST /b": 40}
)
ERRORS = ServiceCounts("account-service", track(1000, 10), track(100, 2))


def rows(counts: OutcomeCounts, *services: ServiceCounts) -> list[tuple[str, float | None, float | None]]:
    """Return outcome and shares."""
    found = outcome_mix(Samples(60, services, {}, outcomes=(counts,)))
    assert {row["service"] for row in found} == {counts.name}
    return [(row["outcome"], row["canary"], row["stable"]) for row in found]


def test_the_shares_of_both_versions_are_side_by_side() -> None:
    assert rows(replace(COUNTS, unanswered=10), ERRORS) == [
        ("success", 0.61, 0.95),
        ("409 x POST /b", 0.18, 0.04),
        ("no response", 0.1, 0.0),
        ("404 not-found GET /a", 0.09, 0.0),
        ("5xx", 0.02, 0.01),
    ]


def test_a_version_without_requests_has_no_shares() -> None:
    assert rows(OutcomeCounts("transactions", 0, 10, {}, {})) == [("success", None, 1.0)]
    assert rows(OutcomeCounts("transactions", 0, 0, {}, {})) == [("success", None, None)]
    assert outcome_mix(Samples(60, (), {}, outcomes=None)) == []


def test_rare_outcomes_are_one_row() -> None:
    many = {f"4{number:02} GET /": float(number) for number in range(10)}
    found = rows(OutcomeCounts("account-service", 100, 100, many, {}))
    assert [row[0] for row in found[1:]] == [*(f"4{number:02} GET /" for number in (9, 8, 7, 6, 5, 4)), "other"]
    assert found[-1][1] == 0.06


def test_counts_of_different_scrapes_give_no_impossible_share() -> None:
    assert rows(OutcomeCounts("account-service", 5, 10, {"404 GET /": 6}, {}))[:2] == [
        ("success", 0.0, 1.0),
        ("404 GET /", 1.0, 0.0),
    ]


async def test_each_verdict_has_the_mix_of_its_samples(lab: Lab, tmp_path: Path) -> None:
    class Source(PrometheusSamples):
        """Has samples without asking Prometheus."""

        async def read(self, window: object) -> Samples:
            """Return the samples."""
            return Samples(60, (ERRORS,), {}, outcomes=(COUNTS,))

    settings = RolloutSettings(auth_jwks=str(lab.secrets.jwks), project="bank", state_dir=tmp_path)
    async with httpx.AsyncClient() as client:
        found = await Analyzer(Source("http://prometheus", client), settings).run(at_step(), NOW + 5)
    assert found["outcomes"] == outcome_mix(Samples(60, (ERRORS,), {}, outcomes=(COUNTS,)))
    json.dumps(found, allow_nan=False)


def test_the_public_view_has_the_mix_while_the_rollout_is_in_progress() -> None:
    mix = outcome_mix(Samples(60, (ERRORS,), {}, outcomes=(COUNTS,)))
    state = state_machine.apply_verdict(at_step(), 0, {**verdict("rollback", "outcomes"), "outcomes": mix}, NOW)
    assert api.public_view(state)["outcomes"] == mix
    assert api.public_view(state_machine.complete_cleanup(state, NOW))["outcomes"] == []
    # A state that an earlier release has stored.
    assert api.public_view(state_machine.apply_verdict(at_step(), 0, verdict("hold", "baking"), NOW))["outcomes"] == []
