"""Scripts that call GitHub's API, with a fake `gh` that records its arguments and returns prepared responses."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.ci import pr_comment
from shared.testing.paths import ROOT

_GH = """#!/usr/bin/env python3
import json, os, subprocess, sys
with open(os.environ["GH_CALLS"], "a", encoding="utf-8") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[-3:-1] == ["--input", "-"] or "-" in sys.argv:
    with open(os.environ["GH_CALLS"].replace("calls", "sent"), "a", encoding="utf-8") as file:
        file.write(json.dumps(json.load(sys.stdin)) + "\\n")
line = " ".join(sys.argv[1:])
for part, answer in json.loads(os.environ["GH_ANSWERS"]).items():
    if part in line:
        answer = json.dumps(answer)
        if "--jq" in sys.argv:
            query = sys.argv[sys.argv.index("--jq") + 1]
            found = subprocess.run(["jq", "-r", query], input=answer, capture_output=True, text=True)
            answer = found.stdout
        print(answer.rstrip("\\n"))
        break
"""
Talk = Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    """Run a script with prepared responses of gh; return the finished process and the calls."""
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(_GH, encoding="utf-8")
    program.chmod(0o755)

    def run(command: list[str], responses: dict[str, Any], **env: str) -> Any:
        calls = tmp_path / "calls"
        calls.write_text("", encoding="utf-8")
        environment = {
            **os.environ,
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "GH_CALLS": str(calls),
            "GH_ANSWERS": json.dumps(responses),
            "GH_REPO": "bank/ops",
            "RUN_URL": "https://run.example/1",
            **env,
        }
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return done, [" ".join(json.loads(line)) for line in calls.read_text(encoding="utf-8").splitlines()]

    return run


def test_a_comment_is_created_once_and_then_updated(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "comment.md"
    file.write_text(f"{pr_comment.MARKER}\nall green\n", encoding="utf-8")
    theirs = {"id": 1, "user": {"type": "User"}, "body": f"{pr_comment.MARKER} mine now"}
    ours = {"id": 2, "user": {"type": "Bot"}, "body": f"{pr_comment.MARKER}\nold"}
    command = ["scripts/ci/post_comment.sh", str(file)]
    done, asked = talk(command, {"--paginate": [theirs]}, PULL_REQUEST="7")
    assert done.returncode == 0 and asked[-1].startswith(
        "api --method POST repos/bank/ops/issues/7/comments"
    ), done.stderr
    done, asked = talk(command, {"--paginate": [theirs, ours]}, PULL_REQUEST="7")
    assert done.returncode == 0 and asked[-1].startswith("api --method PATCH repos/bank/ops/issues/comments/2")


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        ({"isDraft": True, "headRefOid": "abc", "labels": []}, True),
        ({"isDraft": False, "headRefOid": "abc", "labels": []}, False),
        ({"isDraft": True, "headRefOid": "newer", "labels": []}, False),
        ({"isDraft": True, "headRefOid": "abc", "labels": [{"name": "keep-draft"}]}, False),
    ],
)
def test_a_draft_becomes_ready_unless_something_holds_it(talk: Talk, state: dict[str, Any], ready: bool) -> None:
    done, asked = talk(["scripts/ci/mark_ready.sh"], {"pr view": state}, PULL_REQUEST="7", COMMIT="abc")
    assert done.returncode == 0, done.stderr
    assert ("pr ready 7" in asked) is ready


def test_one_issue_is_opened_updated_and_closed(talk: Talk, tmp_path: Path) -> None:
    file = tmp_path / "issue.md"
    file.write_text("CVE-2026-0001", encoding="utf-8")
    command = ["scripts/ci/sync_issue.sh", "cve-scan", "Known vulnerabilities", str(file)]
    done, asked = talk(command, {"issue list": []}, OUTCOME="failure")
    assert done.returncode == 0 and asked[-1].startswith("issue create --title Known vulnerabilities"), done.stderr
    done, asked = talk(command, {"issue list": [{"number": 9}]}, OUTCOME="failure")
    assert done.returncode == 0 and asked[-1].startswith("issue edit 9 --body-file")
    done, asked = talk(command, {"issue list": [{"number": 9}]}, OUTCOME="success")
    assert done.returncode == 0 and asked[-1].startswith("issue close 9")
    done, asked = talk(command, {"issue list": []}, OUTCOME="success")
    assert done.returncode == 0 and len(asked) == 1


@pytest.mark.parametrize(
    ("results", "open_issues", "last"),
    [
        (["success", "failure"], [], "issue create --title Nightly tests failed"),
        (["success", "failure"], [{"number": 9}], "issue edit 9 --body-file"),
        (["success", "cancelled"], [{"number": 9}], "issue edit 9 --body-file"),
        (["success", "success"], [{"number": 9}], "issue close 9"),
    ],
)
def test_nightly_failures_are_an_issue_until_a_successful_run(
    talk: Talk, tmp_path: Path, results: list[str], open_issues: list[Any], last: str
) -> None:
    needs = {name: {"result": result} for name, result in zip(("search", "drills"), results)}
    command = ["scripts/ci/nightly_issue.sh", str(tmp_path / "none")]
    done, asked = talk(command, {"issue list": open_issues}, NEEDS=json.dumps(needs))
    assert done.returncode == 0 and asked[-1].startswith(last), (done.stderr, asked)


def test_a_failed_nightly_part_saves_the_end_of_its_output(tmp_path: Path) -> None:
    def night(script: str) -> int:
        environment = {**os.environ, "REPORTS": str(tmp_path), "DRILL": "simulation", "ARGS": "--seed 70000"}
        command = ["scripts/ci/nightly.sh", "sh", "-c", script]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False).returncode

    assert night("exit 0") == 0 and not list(tmp_path.iterdir())
    assert night("echo seed 70003: 1 event never reached the history; exit 3") == 1
    text = (tmp_path / "simulation.txt").read_text(encoding="utf-8")
    assert 'DRILL=simulation ARGS="--seed 70000"' in text and text.endswith("1 event never reached the history\n")


@pytest.mark.parametrize(
    ("runs", "code", "told"),
    [
        ([{"status": "completed", "conclusion": "success", "url": "u"}], 0, "green"),
        (
            [{"status": "completed", "conclusion": "failure", "url": "https://run.example/2"}],
            1,
            "https://run.example/2",
        ),
        ([{"status": "completed", "conclusion": "cancelled", "url": "u"}], 1, "cancelled"),
        ([{"status": "in_progress", "conclusion": "", "url": "u"}], 1, "is in_progress after 0 s"),
        ([], 1, "is not started after 0 s"),
    ],
)
def test_only_a_commit_with_green_ci_is_deployed(talk: Talk, runs: list[Any], code: int, told: str) -> None:
    done, asked = talk(
        ["scripts/release/require_green_ci.sh"],
        {"run list": runs},
        COMMIT="abc",
        CI_TIMEOUT_SECONDS="0",
        CI_POLL_SECONDS="0",
    )
    assert done.returncode == code and told in done.stdout + done.stderr
    assert "--commit abc --event push" in asked[0]


def _environment(name: str, **changes: Any) -> dict[str, Any]:
    policy = {"protected_branches": False, "custom_branch_policies": True}
    people = {"type": "required_reviewers", "prevent_self_review": True, "reviewers": [_TEAM]}
    timer = {"type": "wait_timer", "wait_timer": 5}
    rules = {"protection_rules": [people, timer, {"type": "branch_policy"}]}
    return {"name": name, "can_admins_bypass": False, "deployment_branch_policy": policy, **rules, **changes}


_TEAM = {"type": "Team", "reviewer": {"id": 77}}
_POLICIES = {"branch_policies": [{"id": 1, "name": "main", "type": "branch"}, {"id": 2, "name": "release"}]}
_NAMES = ("release", "staging", "production")


def _as_it_should_be() -> dict[str, Any]:
    """Return GitHub's responses if everything is up to date."""
    responses: dict[str, Any] = {"deployment-branch-policies": _POLICIES}
    responses["repos/bank/ops/environments"] = {"environments": [_environment(name) for name in _NAMES]}
    for number, name in enumerate(("main", "develop")):
        ruleset = json.loads((ROOT / ".github" / "rulesets" / f"{name}.json").read_text(encoding="utf-8"))
        responses[f"rulesets/{number}"] = ruleset
    return {**responses, "repos/bank/ops/rulesets": [{"id": 0, "name": "main"}, {"id": 1, "name": "develop"}]}


def test_only_main_and_release_deploy_to_the_environments(talk: Talk) -> None:
    responses = _as_it_should_be()
    done, asked = talk(["scripts/ci/apply_branch_protection.sh"], responses)
    assert done.returncode == 0 and not [call for call in asked if "--method" in call], done.stdout + done.stderr
    assert all(f"environment {name}: up to date" in done.stdout for name in _NAMES)


@pytest.mark.parametrize(
    ("environments", "policies", "said", "asked_for"),
    [
        (
            [_environment("release"), _environment("staging")],
            _POLICIES,
            "production: would be updated",
            ["PUT", "POST"],
        ),
        (
            [_environment(name, deployment_branch_policy=None) for name in _NAMES],
            _POLICIES,
            "release: would be updated",
            ["PUT", "POST"],
        ),
        ([_environment(name, can_admins_bypass=True) for name in _NAMES], _POLICIES, "bypass", ["PUT"]),
        (
            [_environment(name) for name in _NAMES],
            {"branch_policies": [*_POLICIES["branch_policies"], {"id": 9, "name": "*", "type": "branch"}]},
            "branch *",
            ["PUT", "DELETE"],
        ),
        (
            [_environment(name) for name in _NAMES],
            {"branch_policies": [{"id": 9, "name": "main", "type": "tag"}, *_POLICIES["branch_policies"][1:]]},
            "tag main",
            ["PUT", "DELETE", "POST"],
        ),
    ],
    ids=["missing", "any branch", "administrators", "every branch", "a tag"],
)
def test_an_environment_open_to_other_branches_is_reported_and_fixed(
    talk: Talk, environments: list[Any], policies: dict[str, Any], said: str, asked_for: list[str]
) -> None:
    responses = {"deployment-branch-policies": policies, "repos/bank/ops/environments": {"environments": environments}}
    responses = {**_as_it_should_be(), **responses}
    done, asked = talk(["scripts/ci/apply_branch_protection.sh"], responses)
    assert done.returncode == 1 and said in done.stdout and not [call for call in asked if "--method" in call]
    done, asked = talk(["scripts/ci/apply_branch_protection.sh", "--apply"], responses)
    methods = [call.split()[2] for call in asked if "--method" in call and "production" in call]
    assert list(dict.fromkeys(methods)) == asked_for, asked


def test_reviewers_stay_and_production_has_to_have_some(talk: Talk, tmp_path: Path) -> None:
    responses = _as_it_should_be()
    bare = [_environment(name, protection_rules=[], can_admins_bypass=True) for name in _NAMES]
    responses["repos/bank/ops/environments"] = {"environments": bare}
    done, _ = talk(["scripts/ci/apply_branch_protection.sh", "--apply"], responses)
    assert done.returncode == 1 and "environment production has no required reviewers" in done.stderr
    responses["repos/bank/ops/environments"] = {
        "environments": [_environment(name, can_admins_bypass=True) for name in _NAMES]
    }
    done, _ = talk(["scripts/ci/apply_branch_protection.sh", "--apply"], responses)
    assert done.returncode == 0, done.stderr
    sent = json.loads((tmp_path / "sent").read_text(encoding="utf-8").splitlines()[-1])
    assert sent["reviewers"] == [{"type": "Team", "id": 77}]
    assert (sent["wait_timer"], sent["prevent_self_review"], sent["can_admins_bypass"]) == (5, True, False)


def test_branch_protection_is_shown_before_it_is_applied(talk: Talk) -> None:
    path = ROOT / ".github" / "rulesets" / "main.json"
    main = json.loads(path.read_text(encoding="utf-8")) | {"id": 5, "created_at": "2026-01-01"}
    loose = {**main, "rules": [rule for rule in main["rules"] if rule["type"] != "required_signatures"]}
    script = "scripts/ci/apply_branch_protection.sh"
    sound = {name: response for name, response in _as_it_should_be().items() if "ruleset" not in name}
    responses = {"rulesets/5": loose, "repos/bank/ops/rulesets": [{"id": 5, "name": "main"}], **sound}
    done, asked = talk([script], responses)
    assert done.returncode == 1 and "main: would be updated" in done.stdout and "required_signatures" in done.stdout
    assert "develop: would be created" in done.stdout and not [call for call in asked if "--method" in call]
    done, asked = talk([script, "--apply"], responses)
    assert done.returncode == 0, done.stderr
    assert [call.split(" --input")[0] for call in asked if "--method" in call] == [
        "api --method POST repos/bank/ops/rulesets",
        "api --method PUT repos/bank/ops/rulesets/5",
    ]
    done, asked = talk([script], {**responses, "rulesets/5": main})
    assert "main: up to date" in done.stdout


def test_slack_is_notified_if_a_webhook_is_configured(talk: Talk) -> None:
    done, _ = talk(
        ["scripts/release/notify_slack.sh"], {}, OUTCOME="success", SLACK_WEBHOOK_URL="", COMMIT="abc", TARGET="staging"
    )
    assert done.returncode == 0 and "notification skipped" in done.stdout
    done, _ = talk(
        ["scripts/release/notify_slack.sh"],
        {},
        OUTCOME="failure",
        SLACK_WEBHOOK_URL="http://127.0.0.1:9/secret",
        COMMIT="abc",
        TARGET="staging",
    )
    assert done.returncode != 0 and "secret" not in done.stdout + done.stderr


def test_the_comment_shows_results_and_escapes_untrusted_text(tmp_path: Path) -> None:
    unit = tmp_path / "reports-unit-shared-3.13"
    unit.mkdir()
    (unit / "shared.xml").write_text(
        '<testsuites><testsuite tests="9" failures="2" skipped="1"/></testsuites>', "utf-8"
    )
    totals = {"totals": {"percent_covered": 93.25, "missing_branches": 4}}
    (unit / "coverage-account-service.json").write_text(json.dumps(totals), "utf-8")
    (unit / "broken.sarif").write_text("{", "utf-8")
    head = "Type,Name,Request Count,Failure Count,Requests/s,50%,95%,99%\n"
    (unit / "load_stats.csv").write_text(f"{head},Aggregated,1000,3,16.6,12,30,40\n", "utf-8")
    evil = {"uri": "x.py"}, {"startLine": 3}
    result = {
        "ruleId": "B608",
        "message": {"text": "@everyone <img src=x> [click](https://evil.example) | `a`"},
        "locations": [{"physicalLocation": {"artifactLocation": evil[0], "region": evil[1]}}],
    }
    (unit / "bandit.sarif").write_text(json.dumps({"runs": [{"results": [result]}]}), "utf-8")
    text = pr_comment.render({"unit": {"result": "failure"}}, tmp_path, "abcdef")
    assert text.startswith(pr_comment.MARKER) and "❌ Some jobs failed" in text
    assert "| shared | 6 | 2 | 1 |" in text and "93.2 %" in text and "| 1000 | 16.6 | 3 | 12 | 30 | 40 |" in text
    assert "x.py:3" in text and "not a valid SARIF log" in text
    assert "@everyone" not in text and "<img" not in text and "[click](" not in text and "://evil" not in text
    assert "✅ All jobs succeeded" in pr_comment.render({"unit": {"result": "success"}}, tmp_path / "none", "abcdef")
