"""`make ci` evaluates expressions, passes variables between steps and expands jobs as GitHub does."""

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from scripts.ci import expressions, run_jobs, runner
from scripts.ci.workflow_jobs import Job, expand
from shared.testing.paths import ROOT

_CONTEXTS: dict[str, Any] = {
    "matrix": {"suite": "local", "drill": "faults"},
    "github": {"event_name": "pull_request", "run_number": "7", "event": {"pull_request": {"draft": False}}},
    "needs": {"build": {"result": "success"}},
    "inputs": {},
    "vars": {"INVENTORY": "hosts"},
    "secrets": {},
}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("matrix.suite", "local"),
        ("secrets.INVENTORY || vars.INVENTORY", "hosts"),
        ("inputs.rollback && '-rollback' || ''", ""),
        ("github.event_name == 'PULL_REQUEST' && !github.event.pull_request.draft", True),
        ("github.event.push.head.sha", None),
        ("needs.build.result != 'success'", False),
        ("contains('verdict faults', matrix.drill) && format('--seed {0}', github.run_number) || ''", "--seed 7"),
        ("'it''s'", "it's"),
        ("null == ''", True),
        ("contains(needs.*.result, 'success')", True),
        ("contains(needs.*.result, 'cancelled')", False),
        ("1 == '1'", True),
        ("(false || 0) == ''", True),
        ("toJSON(needs)", '{\n  "build": {\n    "result": "success"\n  }\n}'),
    ],
)
def test_an_expression_has_the_value_that_it_has_on_github(expression: str, value: Any) -> None:
    assert expressions.evaluate(expression, _CONTEXTS) == value


@pytest.mark.parametrize(
    ("condition", "failed", "runs"),
    [
        ("", False, True),
        ("", True, False),
        ("always()", True, True),
        ("failure()", False, False),
        ("failure()", True, True),
        ("needs.build.result == 'success'", True, False),
        ("always() && needs.build.result == 'success'", True, True),
        ("${{ !failure() && !cancelled() }}", False, True),
    ],
)
def test_a_condition_needs_success_unless_it_asks_for_the_status(condition: str, failed: bool, runs: bool) -> None:
    assert expressions.condition(condition, _CONTEXTS, failed) is runs


@pytest.mark.parametrize("expression", ["matrix.", "unknown.x", "fromJSON('1')", "a b", "'open", "1 +"])
def test_an_expression_that_is_not_understood_is_an_error(expression: str) -> None:
    with pytest.raises(expressions.ExpressionError):
        expressions.evaluate(expression, _CONTEXTS)


def test_every_expression_of_the_workflows_is_understood() -> None:
    for job in (job for name in ("ci.yml", "cve-scan.yml", "deploy.yml", "nightly.yml") for job in expand(name)):
        contexts = {**_CONTEXTS, "matrix": job.matrix, "runner": {"os": "Linux"}, "job": {"status": "success"}}
        expressions.condition(job.condition, contexts)
        for step in job.steps:
            expressions.condition(str(step.get("if", "")), contexts)
            for value in (*job.env.values(), *step.get("env", {}).values(), *step.get("with", {}).values()):
                assert "${{" not in expressions.interpolate(value, contexts)


def test_every_action_has_a_stand_in() -> None:
    text = Path(runner.__file__).read_text(encoding="utf-8")
    used = {
        step["uses"].partition("@")[0]
        for name in ("ci.yml", "cve-scan.yml", "deploy.yml")
        for job in expand(name)
        for step in job.steps
        if "uses" in step
    }
    assert used and all(f'"{action}"' in text for action in used)


def test_variables_of_several_lines_reach_the_next_step() -> None:
    content = "A=1=2\nB<<END\nfirst\nC=3\nEND\nD=\n"
    assert runner.assignments(content) == {"A": "1=2", "B": "first\nC=3", "D": ""}


def test_steps_share_only_what_github_passes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    user = runner.User("somebody", os.geteuid(), os.getegid(), tmp_path)
    steps = (
        {"run": 'export LOST=1; echo "KEPT=yes" >>"$GITHUB_ENV"; echo "$HOME/bin" >>"$GITHUB_PATH"; false | true'},
        {"run": 'echo "got ${LOST-nothing} $KEPT ${PATH%%:*} $SUITE $(umask)"; exit 3'},
        {"run": "echo not reached"},
        {"if": "failure()", "run": "echo status ${{ job.status }}"},
        {"if": "always()", "run": "./gh issue", "env": {"GH_TOKEN": "x"}},
    )
    job = Job("ci.yml", "unit", "unit", steps=steps, env={"SUITE": "${{ matrix.suite }}"}, matrix={"suite": "local"})
    contexts = {"github": run_jobs.github_context("push"), "needs": {}, "inputs": {}, "vars": {}, "secrets": {}}
    one = runner.Runner(user, job, contexts, 0o077)
    one.workspace.mkdir(parents=True)
    assert not one.run()
    printed = capfd.readouterr().out
    assert f"got nothing yes {tmp_path}/bin local 0077\n" in printed and "status failure\n" in printed
    assert "\nnot reached" not in printed and "./gh issue: left out" in printed


def test_the_critical_path_is_the_longest_way_through_the_needs() -> None:
    def result(key: str, needs: tuple[str, ...], seconds: float) -> run_jobs.Result:
        return run_jobs.Result(Job("ci.yml", key, key, needs), "success", seconds)

    results = [result("a", (), 5), result("b", (), 9), result("b", (), 3), result("gate", ("a", "b"), 2)]
    assert run_jobs.critical_path(results) == (11, ["b", "gate"])


def test_an_unknown_job_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown job lin"):
        run_jobs.selected({"lin"})
    assert {job.key for job in run_jobs.selected({"build", "scan", "security"})} == {"build", "scan", "security"}


def test_programs_of_the_runner_are_listed() -> None:
    """Programs that scripts call and that no package of the project provides."""
    listed = tomllib.loads((ROOT / ".ci/runner.toml").read_text(encoding="utf-8"))
    known = set(listed["programs"]) | set(listed["github_only"])
    candidates = {"curl", "docker", "flock", "gh", "git", "jq", "openssl", "ssh", "ssh-keygen", "sudo", "unzip", "wget"}
    files = subprocess.run(["git", "ls-files", "*.sh"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    used = {
        word
        for name in files.split()
        if name.startswith("scripts/")
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        for word in candidates
        # At the start of a command; wget runs in containers.
        if line.lstrip().startswith((f"{word} ", f"if {word} ")) or f"$({word} " in line or f"| {word} " in line
    }
    assert used <= known
