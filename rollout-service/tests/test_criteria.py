"""Operators' own criteria."""

import math
from dataclasses import replace

import httpx
import pytest

from app.analysis.criterion_samples import read_criteria
from app.analysis.model import INVARIANTS, Criterion, CriterionValues, Policy, Samples, ServiceCounts
from app.analysis.queries import AnalysisWindow, Prometheus
from app.analysis.verdict import evaluate
from app.settings import CanaryMetric
from tests.test_verdict import track

LATE = Criterion("late-transfers", "a", "b", tolerance=0.5)
HEALTHY = Samples(120.0, (ServiceCounts("service", track(9000), track(1000)),), dict.fromkeys(INVARIANTS, 0.0))


def verdict(*canary: float | None, stable: float | None = 10.0, criterion: Criterion = LATE) -> tuple[str, str, str]:
    values = CriterionValues(criterion, canary, (stable,) * len(canary))
    found = evaluate(replace(HEALTHY, criteria=(values,)), Policy())
    return found.verdict, found.reason, found.detail


def test_a_criterion_must_be_worse_several_times_in_a_row() -> None:
    assert verdict(10.0, 10.0, 15.0) == ("promote", "healthy", "")
    assert verdict(16.0, 16.0, 16.0) == ("rollback", "criterion", "late-transfers")
    assert verdict(16.0, 15.0, 16.0) == verdict(16.0, 16.0) == ("hold", "criterion", "late-transfers")
    assert verdict(16.0, 16.0, 10.0) == ("promote", "healthy", "")


def test_a_lower_value_may_be_worse() -> None:
    rate = replace(LATE, direction="lower_is_worse", analyses=1)
    assert verdict(4.9, criterion=rate)[0] == "rollback"
    assert verdict(5.1, criterion=rate)[0] == verdict(50.0, criterion=rate)[0] == "promote"
    # Negative values have a tolerance, too.
    assert verdict(-16.0, stable=-10.0, criterion=rate)[0] == "rollback"
    assert verdict(-14.0, stable=-10.0, criterion=rate)[0] == "promote"


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_an_unknown_value_holds(value: float | None) -> None:
    assert verdict(10.0, 10.0, value)[:2] == ("hold", "criterion")
    assert verdict(10.0, 10.0, 10.0, stable=value)[:2] == ("hold", "criterion")
    assert verdict()[:2] == ("hold", "criterion")


@pytest.mark.parametrize("wrong", [{"name": "Bad name"}, {"direction": "up"}, {"analyses": 0}, {"window": 1}])
def test_an_invalid_criterion_is_rejected(wrong: dict[str, object]) -> None:
    valid = {"name": "late", "canary": "a", "stable": "b"}
    assert Criterion(**CanaryMetric.model_validate(valid).model_dump()) == Criterion("late", "a", "b")
    with pytest.raises(ValueError, match="validation error"):
        CanaryMetric.model_validate({**valid, **wrong})


# Samples --------------------------------------------------------------------------------------------------------------


def server(values: dict[str, list[tuple[dict[str, str], float]]]) -> httpx.MockTransport:
    """Return a Prometheus with values by the last word of a query and time."""

    def answer(request: httpx.Request) -> httpx.Response:
        form = httpx.QueryParams(request.content.decode())
        found = values.get(form["query"] + "@" + form["time"], values.get(form["query"], []))
        result = [{"metric": labels, "value": [0, str(value)]} for labels, value in found]
        return httpx.Response(200, json={"data": {"result": result}})

    return httpx.MockTransport(answer)


async def test_criteria_are_read_at_the_last_times_of_the_step() -> None:
    values = {
        "a@90.000": [({}, 1.0)],
        "a@95.000": [({}, 2.0)],
        "a": [({}, 3.0)],
        "b": [({"service": "x"}, 4.0), ({}, 5.0)],
    }
    async with httpx.AsyncClient(transport=server(values)) as client:
        prometheus = Prometheus("http://prometheus", client)
        found = await read_criteria(prometheus, AnalysisWindow(0, 100, 0), [LATE])
        assert found == (CriterionValues(LATE, (1.0, 2.0, 3.0), (None, None, None)),)
        found = await read_criteria(prometheus, AnalysisWindow(84, 100, 0), [LATE])
        assert found[0].canary == (2.0, 3.0)
