"""Commit subjects follow `scope: imperative summary`; pre-commit hooks call the same checks as `make lint`."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from shared.testing.paths import ROOT

SCRIPT = ROOT / "scripts" / "ci" / "check_commits.sh"


def check(*arguments: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "subject",
    [
        "shared: report client disconnects as 499",
        "account-service, shared: embed the schema",
        "tests: speed up the simulation",
        "deps: bump the python group with 3 updates",
    ],
)
def test_a_valid_subject_is_accepted(tmp_path: Path, subject: str) -> None:
    message = tmp_path / "message"
    message.write_text(f"# comment\n{subject}\n\nBody: Why.\n", encoding="utf-8")
    assert check(message).returncode == 0


@pytest.mark.parametrize(
    ("subject", "problem"),
    [
        ("shared: " + "x" * 65, "73 characters"),
        ("shared: " + "add " + "ü" * 62, "74 characters"),
        ("Fix a bug", "scope: imperative summary"),
        ("shared: Fix a bug", "lower case"),
        ("shared:fix a bug", "scope: imperative summary"),
        ("shared: fix", "scope: imperative summary"),
        ("shared: fix a bug.", "full stop"),
        ("shared: fixed a bug", "'fixed'"),
        ("shared: fixes a bug", "'fixes'"),
        ("shared: fixing a bug", "'fixing'"),
        ("fixup! shared: fix a bug", "scope: imperative summary"),
    ],
)
def test_an_invalid_subject_is_rejected_with_the_reason(tmp_path: Path, subject: str, problem: str) -> None:
    message = tmp_path / "message"
    message.write_text(subject + "\n", encoding="utf-8")
    done = check(message)
    assert done.returncode == 1 and problem in done.stderr, done.stderr


def test_the_commits_of_a_pull_request_are_checked(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q", "-b", "develop")
    for subject in ("Old style.", "app: add a file", "Broken subject", "app: remove a file"):
        git("commit", "-q", "--allow-empty", "-m", subject)
    old, first, broken, last = git("log", "--reverse", "--format=%H").split()
    done = check(cwd=tmp_path, BASE_COMMIT=first, COMMIT=last)
    assert done.returncode == 1 and "'Broken subject'" in done.stderr and "Old style" not in done.stderr
    done = check(cwd=tmp_path, BASE_COMMIT=broken, COMMIT=last)
    assert (done.returncode, done.stdout) == (0, "commits: 1 subjects checked\n")
    assert check(cwd=tmp_path, BASE_COMMIT="0" * 40, COMMIT=last).returncode != 0
    git("checkout", "-q", "-b", "feature", old)
    git("commit", "-q", "--allow-empty", "-m", "Another one")
    done = check(cwd=tmp_path)
    assert done.returncode == 1 and "'Another one'" in done.stderr and "Old style" not in done.stderr
    git("merge", "-q", "-m", "Merge branch develop", first)
    assert "Merge" not in check(cwd=tmp_path).stderr


def test_pre_commit_hooks_call_checks_that_exist_and_download_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    lint = (ROOT / "scripts/ci/lint.sh").read_text(encoding="utf-8")
    checks = re.findall(r"^ *(?:check|check_with_tool) \"?([\w-]+)", lint, re.MULTILINE)
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {repository["repo"] for repository in config["repos"]} == {"local"}
    assert hooks and {hook["language"] for hook in hooks} == {"system"}
    for hook in hooks:
        script, *names = hook["entry"].split()
        assert (ROOT / script).is_file() and set(names) <= set(checks), hook
