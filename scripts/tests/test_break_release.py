"""The rollout of a faulty release: what it measures, and that it restores the initial state."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.faults import break_release, customers, release, rollout
from scripts.faults.customers import RequestStats
from scripts.faults.faulty import DESCRIPTIONS, DAMAGING
from scripts.faults.release import Release
from scripts.faults.result import CanaryTraffic, RolloutResult, count, thresholds
from scripts.faults.rollout import Plan, Rollout, require_idle
from scripts.faults.stack import (
    BASELINES,
    CANARIES,
    SERVICES,
    Container,
    RejectedError,
    Request,
    Stack,
    StackError,
    _parse,
)

_RELEASE = Release("broken-errors", dict.fromkeys(SERVICES, "image"), dict.fromkeys(SERVICES, "1" * 64))


class FakeStack(Stack):
    """A stack in memory, whose rollout goes through the given states, one with each renewal."""

    def __init__(self, *states: dict[str, Any]) -> None:
        super().__init__({"COMPOSE_PROJECT_NAME": "bank", "BANK_PORT": "1"})
        self.states = list(states)
        self.state = {"id": "", "phase": "idle", "weight": 0, "verdict": {}, "version": "", "driver": ""}
        self.running = dict.fromkeys(SERVICES, 2)
        self.commands: list[tuple[str, ...]] = []
        self.healthy = True
        self.variables: dict[str, str] = {}
        self.request: dict[str, Any] = {}

    def containers(self) -> list[Container]:
        return [
            Container("1", service, "image", "2" * 64) for service, count in self.running.items() for _ in range(count)
        ]

    def compose(self, *arguments: str, **variables: str) -> str:
        self.commands.append(arguments)
        self.variables |= variables
        self.running |= dict.fromkeys((*CANARIES, *BASELINES), 1 if "up" in arguments else 0)
        return ""

    def canary_addresses(self) -> set[str]:
        return {"10.0.0.9:8000"}

    def requests(self, since: float) -> list[Request]:
        # Later than any test, and therefore read once.
        found = Request(2e10, "10.0.0.9:8000", 500, 200, customers.USER_AGENT)
        return [found, replace(found, upstream="10.0.0.1:8000")] if since < found.at else []

    def revision(self) -> str:
        return "stable"

    def rollout(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        self.commands.append(arguments)
        if not self.healthy:
            raise StackError("no answer")
        match arguments[0]:
            case "begin":
                self.request = json.loads(stdin)
                self.state |= {"id": "1", "phase": "provisioning", "version": self.request["version"]}
            case "provisioned":
                self.state |= {"phase": "canary"}
            case "renew" if self.states:
                self.state |= self.states.pop(0)
            case "renew" if self.state["phase"] in ("idle", "done"):
                raise RejectedError("ended", dict(self.state))
            case "abort" | "promoted":
                self.state |= {"phase": "idle" if arguments[0] == "abort" else "done", "outcome": "rolled-back"}
                self.running |= dict.fromkeys((*CANARIES, *BASELINES), 0)
        return dict(self.state)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rollout, "traffic", lambda *_: nullcontext(RequestStats()))
    for name in ("_POLL_SECONDS", "_RELOAD_SECONDS", "_ROLLBACK_TIMEOUT_SECONDS"):
        monkeypatch.setattr(rollout, name, 0)
    yield


def rolled_out(
    stack: FakeStack, *, promote: bool = False, run_all_steps: bool = True
) -> tuple[RolloutResult, list[str]]:
    said: list[str] = []
    one = Rollout(stack, _RELEASE, Plan("a test", run_all_steps=run_all_steps), said.append)
    return rollout.roll_out(one, [], 1, promote), said


CANARY = {"phase": "canary", "weight": 10, "verdict": {"verdict": "hold", "reason": "not-enough-samples"}}
ROLLING_BACK = {"phase": "rolling-back", "weight": 0, "reason": "errors", "outcome": "rolled-back"}


def test_each_change_is_reported_once_and_a_rolled_back_release_is_measured() -> None:
    result, reported = rolled_out(FakeStack(CANARY, CANARY, ROLLING_BACK, {"phase": "idle"}))
    assert [line.split()[0] for line in reported] == ["starting", "canary", "rolling-back", "rollout"]
    assert reported[1].endswith("verdict: hold (not-enough-samples)")
    assert (result.weight, result.passed, result.traffic.failed, result.leftovers) == (10, False, 1, [])


# The cases of rollout.sh (integration-tests/ansible/roles/test_canaries.py).
@pytest.mark.parametrize(
    ("serving", "weight", "canaries"),
    [(1, 10, 1), (9, 10, 1), (10, 10, 2), (2, 50, 2), (5, 50, 5), (3, 25, 1), (2, 90, 2), (4, 99, 4), (0, 50, 0)],
)
def test_as_many_canaries_as_in_deployments(serving: int, weight: int, canaries: int) -> None:
    assert rollout.canary_count(serving, weight) == canaries


# Beside two stable replicas and the baseline.
@pytest.mark.parametrize(("run_all_steps", "canaries"), [(True, 3), (False, 1)])
def test_no_canary_serves_more_clients_than_a_stable_replica(run_all_steps: bool, canaries: int) -> None:
    stack = FakeStack(CANARY, ROLLING_BACK, {"phase": "idle"})
    rolled_out(stack, run_all_steps=run_all_steps)
    assert stack.request["canaries"] == dict.fromkeys(SERVICES, canaries)
    assert {stack.variables[f"{name}_SERVICE_CANARY_REPLICAS"] for name in ("ACCOUNT", "TRANSACTION")} == {
        str(canaries)
    }


def test_bad_settings_are_rolled_out_with_the_running_images(tmp_path: Path) -> None:
    stack = FakeStack(CANARY, ROLLING_BACK)
    stack.configurations = tmp_path
    # As scripts/stack/revisions.py writes it.
    content = {"environment": "AUTH_AUDIENCE='banking'\nLOG_LEVEL='INFO'\n", "secrets/jwks": "{}"}
    (tmp_path / ("2" * 64) / "secrets").mkdir(parents=True)
    for name, text in content.items():
        (tmp_path / ("2" * 64) / name).write_text(text, encoding="utf-8")
    faulty = release.build(stack, "bad-config")
    assert faulty.images == stack.images() and not stack.commands
    (revision,) = set(faulty.revisions.values())
    changed = (tmp_path / revision / "environment").read_text(encoding="utf-8")
    assert changed == "AUTH_AUDIENCE='banking-staging'\nLOG_LEVEL='INFO'\n" and revision != "2" * 64
    with Rollout(stack, faulty, Plan("a test"), print) as one:
        one.provision()
    assert stack.request["revisions"] == dict.fromkeys(SERVICES, revision)
    assert stack.request["previous_revisions"] == dict.fromkeys(SERVICES, "2" * 64)
    assert stack.variables["ACCOUNT_SERVICE_CANARY_REVISION"] == revision
    # The baseline has the settings of stable.
    assert stack.variables["TRANSACTION_SERVICE_PREVIOUS_REVISION"] == "2" * 64


def test_a_release_that_passes_is_rolled_back_and_misses_its_threshold() -> None:
    stack = FakeStack(CANARY, {"phase": "canary", "weight": 50}, {"phase": "promoting"})
    result, _ = rolled_out(stack)
    assert result.passed and stack.state["phase"] == "idle"
    assert ("promoted", "1") not in stack.commands
    assert not thresholds("errors", result)[0].met


def test_at_half_of_the_clients_a_drill_has_seen_enough() -> None:
    stack = FakeStack({"phase": "canary", "weight": 50})
    result, _ = rolled_out(stack, run_all_steps=False)
    assert result.weight == 50 and stack.state["phase"] == "idle"


def test_an_equal_release_is_promoted_and_not_rolled_back() -> None:
    stack = FakeStack(CANARY, {"phase": "promoting"})
    rolled_out(stack, promote=True)
    assert ("promoted", "1") in stack.commands
    assert not any(command[0] == "abort" for command in stack.commands)


@pytest.mark.parametrize("error", [KeyboardInterrupt, StackError, AssertionError])
def test_whatever_happens_the_release_is_rolled_back(error: type[BaseException]) -> None:
    stack = FakeStack()
    one = Rollout(stack, _RELEASE, Plan("a test"), print)
    with pytest.raises(error), one:
        one.provision()
        raise error
    assert stack.state["phase"] == "idle" and one.result.leftovers == []


def test_the_canaries_are_removed_even_without_rollout_service() -> None:
    stack = FakeStack()
    reported: list[str] = []
    one = Rollout(stack, _RELEASE, Plan("a test"), reported.append)
    with one:
        one.provision()
        stack.healthy = False
    assert stack.commands[-1][:3] == ("--profile", "canary", "rm") and one.result.leftovers == []
    assert "cannot roll the release back" in reported[-1]


def test_another_rollout_is_left_alone() -> None:
    stack = FakeStack()
    stack.state |= {"id": "2", "phase": "canary", "version": "v2", "driver": "somebody"}
    with pytest.raises(StackError, match="v2 by somebody is in progress"):
        require_idle(stack)
    one = Rollout(stack, _RELEASE, Plan("a test"), print)
    with one:
        stack.state["id"] = "2"
    assert not any(command[0] == "abort" for command in stack.commands)


def test_what_is_left_is_told() -> None:
    stack = FakeStack(CANARY, ROLLING_BACK)
    one = Rollout(stack, _RELEASE, Plan("a test"), print)
    with one:
        stack.running["account-service"] = 1
    assert one.result.leftovers == ["account-service: 1 instead of 2 replicas"]


def test_requests_are_read_from_the_log_of_nginx() -> None:
    entry = {"upstream": "10.0.0.9:8000 : 10.0.0.2:8000", "upstream_status": "500 : 201", "status": 201}
    line = "2026-01-31T12:00:00.250000999Z " + json.dumps({**entry, "user_agent": "someone"})
    assert _parse(line) == Request(1769860800.25, "10.0.0.9:8000", 500, 201, "someone")
    assert _parse("2026-01-31T12:00:00Z " + json.dumps({**entry, "upstream": "", "upstream_status": ""})) is None
    assert _parse("2026-01-31T12:00:00Z an error") is None


def test_the_canary_is_measured_from_its_first_faulty_response_to_its_last_request() -> None:
    log = [
        Request(1, "stable", 500, 500, customers.USER_AGENT),
        Request(2, "canary", 200, 200, "probe"),
        Request(4, "canary", 0, 200, customers.USER_AGENT),
        Request(9, "canary", 200, 200, customers.USER_AGENT),
    ]
    found = count(log, {"canary"})
    assert found == CanaryTraffic(requests=3, customers=2, failed=1, first=2, first_failed=4, last=9)
    assert found.seconds == 5 and count(log[1:2], {"canary"}).seconds == 0 and count([], set()).seconds == 0


GOOD = RolloutResult(
    {"outcome": "rolled-back", "reason": "errors"}, 10, False, CanaryTraffic(200, 100, 50, 0, 1, 9), 900, ["one"]
)


@pytest.mark.parametrize(
    "changes, missed",
    [
        ({}, []),
        ({"weight": 50}, [0, 1, 2]),
        ({"passed": True}, [0, 1, 2]),
        ({"state": {"outcome": "rolled-back", "reason": "no verdict within 50 s (errors)"}}, [0, 1, 2]),
        ({"state": {"outcome": "rolled-back", "reason": "latency"}}, [1]),
        ({"traffic": CanaryTraffic(200, 100, 50, 0, 1, 40)}, [2]),
        ({"failed": ["one", "two"]}, [3]),
        ({"leftovers": ["a canary"]}, [4]),
    ],
)
def test_each_threshold_is_missed_alone(changes: dict[str, Any], missed: list[int]) -> None:
    found = thresholds("errors", RolloutResult(**{**GOOD.__dict__, **changes}))
    assert [number for number, each in enumerate(found) if not each.met] == missed


def test_break_release_accepts_no_failed_request_and_a_total_failure_less_time() -> None:
    assert not thresholds("errors", GOOD, max_failed=0)[3].met
    slower = RolloutResult(**{**GOOD.__dict__, "traffic": CanaryTraffic(200, 100, 50, 0, 1, 12)})
    assert thresholds("errors", slower)[2].met and not thresholds("401-all", slower)[2].met


def test_unknown_faults_are_answered_with_all_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert break_release.main(["nonsense"]) == 2
    printed = capsys.readouterr().err
    assert all(f"  {name} " in printed for name in DESCRIPTIONS if name not in ("none", "death"))


@pytest.mark.parametrize("fault", DAMAGING)
def test_damaging_faults_need_consent(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert break_release.main([fault]) == 2
    assert "DAMAGE=1" in capsys.readouterr().err


def test_without_a_stack_it_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "bank")
    monkeypatch.setenv("BANK_PORT", "1")
    monkeypatch.setattr(Stack, "containers", lambda self: [])
    monkeypatch.setattr(break_release.signal, "signal", lambda *_: None)
    assert break_release.main(["errors"]) == 1
    assert "make up" in capsys.readouterr().err


def test_customers_distinguish_failed_requests_from_wrong_responses() -> None:
    stats = RequestStats()
    stats.record(customers.httpx.Response(200), "balance 2 instead of 1")
    stats.record(customers.httpx.Response(404, text="gone"), "")
    stats.record(customers.httpx.ReadTimeout("slow"), "")
    stats.record(customers.httpx.Response(201), "")
    assert (stats.sent, len(stats.failed), stats.wrong) == (4, 2, ["balance 2 instead of 1"])


def test_a_rollback_that_ends_before_the_abort_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = FakeStack()
    rolling_back = {**stack.state, "id": "1", "phase": "rolling-back"}

    def rollout_service(*arguments: str, stdin: str = "") -> dict[str, Any]:
        if arguments[0] == "abort":
            raise RejectedError("no rollout is in progress", {**rolling_back, "phase": "idle"})
        return rolling_back

    monkeypatch.setattr(stack, "rollout", rollout_service)
    assert stack.abort("1", "the end")["phase"] == "idle"
