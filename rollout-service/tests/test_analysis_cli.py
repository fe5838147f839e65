"""The command line of the analysis: verdicts, records and replays."""

import json
import math
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.analysis.__main__ import EXIT_CODES, main
from app.analysis.model import INVARIANTS, Criterion, CriterionValues, Policy, Samples, ServiceCounts
from app.analysis.records import AnalysisRecord, load_record, write_record
from app.analysis.queries import AnalysisWindow
from app.analysis.runner import analyze
from app.analysis.samples import PrometheusSamples
from app.analysis.verdict import evaluate
from shared.testing.timing import StoppedClock
from tests.test_outcomes import counts
from tests.test_resources import EQUAL
from tests.test_verdict import track


def record(errors: float = 1, **changes: float) -> AnalysisRecord:
    """Return a verdict on a canary with some errors."""
    services = tuple(
        ServiceCounts(name, track(9000, 9), track(1000, errors), track(500)) for name in ("account-service", "other")
    )
    samples = Samples(120.0, services, dict.fromkeys(INVARIANTS, 0.0))
    policy = Policy(**changes)
    return AnalysisRecord(
        1_700_000_000.5, samples, policy, evaluate(samples, policy), {"id": "r-1", "step": 0, "weight": 10}
    )


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Samples]:
    """The samples that Prometheus returns; the last of the list."""
    samples = [record().samples]

    async def read(_self: PrometheusSamples, window: AnalysisWindow) -> Samples:
        return replace(samples[-1], seconds=window.now - window.step)

    monkeypatch.setattr(PrometheusSamples, "read", read)
    return samples


def test_records_are_numbered_and_load_unchanged(tmp_path: Path) -> None:
    odd = record()
    invariants = {**odd.samples.invariants, "consumer": math.inf, "reconciliation": None}
    services = (ServiceCounts("gone", None, None),)
    further = {
        "outcomes": (counts(60, 100, 40),),
        "resources": (EQUAL,),
        "criteria": (CriterionValues(Criterion("late", "a", "b"), (1.0, None), (2.0, math.inf)),),
    }
    odd = replace(odd, samples=replace(odd.samples, invariants=invariants, services=services, **further))
    odd = replace(odd, verdict=evaluate(odd.samples, odd.policy))
    folder = tmp_path / "verdicts" / "r-1"
    assert write_record(folder, record()).name == "001.json"
    assert write_record(folder, odd).name == "002.json"
    assert load_record(folder / "001.json") == record()
    assert load_record(folder / "002.json") == odd
    assert [path.name for path in sorted(folder.iterdir())] == ["001.json", "002.json"]


def test_a_record_is_standard_json(tmp_path: Path) -> None:
    samples = replace(record().samples, seconds=math.nan)
    path = write_record(tmp_path, replace(record(), samples=samples, verdict=evaluate(samples, Policy())))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(path.read_text(), parse_constant=refuse)["samples"]["seconds"] == {"float": "nan"}
    assert math.isnan(load_record(path).samples.seconds)
    assert main(["replay", str(path)]) == 0


def test_a_replay_confirms_the_stored_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(write_record(tmp_path, one)) for one in (record(), record(90), record(bake_seconds=1000))]
    assert main(["replay", *paths]) == 0
    out = capsys.readouterr().out
    assert [line.rpartition(": ")[2] for line in out.splitlines()] == [
        "promote (healthy)",
        "rollback (errors)",
        "hold (baking)",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"verdict": "promote"},
        {"reason": "latency"},
        {"figures": {}},
        {"figures": {"account-service": {"canary_errors": 1.0}}},
    ],
)
def test_a_replay_with_a_different_verdict_fails(tmp_path: Path, changed: dict[str, object]) -> None:
    true = record(90)
    path = write_record(tmp_path, replace(true, verdict=replace(true.verdict, **changed)))
    assert main(["replay", str(path)]) == 1


def test_a_replay_with_a_different_figure_fails(tmp_path: Path) -> None:
    path = write_record(tmp_path, record())
    stored = json.loads(path.read_text())
    for value in (17.0, None, {"float": "nan"}):
        stored["verdict"]["figures"]["account-service"]["latency_z"] = value
        path.write_text(json.dumps(stored))
        assert main(["replay", str(path)]) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"at": 1}', "null"])
def test_an_invalid_record_is_reported(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text(text)
    assert main(["replay", str(tmp_path / "x.json"), str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.count("x.json") >= 1


def test_a_verdict_is_printed_and_stored(
    tmp_path: Path, found: list[Samples], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.analysis.__main__.time", StoppedClock())
    assert main(["--since", "now-90", "--store", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["verdict"], printed["reason"]) == ("promote", "healthy")
    stored = load_record(tmp_path / "001.json")
    assert stored.verdict.verdict == "promote"
    assert stored.samples.seconds == 90
    found.append(record(90).samples)
    assert main(["--since", "now-90"]) == 1
    found.append(record().samples)
    assert main(["--since", "now-90", "--set", "bake_seconds=1000", "--rollout", "now-100"]) == 3
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["replay"],
        ["--since", "yesterday"],
        ["--since", "nan"],
        ["--since", "1", "--set", "alpha=2"],
        ["--since", "1", "--set", "alpha"],
        ["--since", "1", "--set", "patience=2"],
    ],
)
def test_a_usage_error_exits_with_2(arguments: list[str]) -> None:
    try:
        assert main(arguments) == 2
    except SystemExit as end:
        assert end.code == 2


def test_an_unreachable_prometheus_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--since", "now-90", "--prometheus", "http://127.0.0.1:1"]) == EXIT_CODES["hold"] == 3
    assert json.loads(capsys.readouterr().out)["reason"] == "no-data"


async def test_the_controller_uses_the_same_analysis() -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(503))
    async with httpx.AsyncClient(transport=transport) as client:
        source = PrometheusSamples("http://prometheus:9090", client)
        record_ = await analyze(source, AnalysisWindow(100, 190, 50), Policy(), {"id": "r-2"})
    assert (record_.at, record_.samples.seconds, record_.about) == (190, 90, {"id": "r-2"})
    assert (record_.verdict.verdict, record_.verdict.reason) == ("hold", "no-data")
