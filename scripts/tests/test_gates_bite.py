"""Each gate of CI fails for a seeded fault, reports its location, and passes after the fault is fixed.

The tests run the same scripts as the workflows.
"""

import json
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scripts import check_vulnerabilities
from shared.testing.paths import ROOT
from scripts.tests import recorded

Run = Callable[..., subprocess.CompletedProcess[str]]
PYTHON = str(ROOT / ".venv/bin/python")
_INJECTION = 'def find(db, name):\n    return db.execute("SELECT * FROM accounts WHERE name = \'" + name + "\'")\n'
_BOUND = 'def find(db, name):\n    return db.execute("SELECT * FROM accounts WHERE name = :name", {"name": name})\n'


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command of the project, its reports in a folder of this test."""

    def run_command(*command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "REPORTS": str(tmp_path / "reports"), **env}
        words = [str(word) for word in command]
        return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run_command


@pytest.mark.parametrize(
    ("seeded", "fixed", "reported"),
    [
        (_INJECTION, _BOUND, "service.py:2: high (rated medium by Bandit) B608"),
        ('PASSWORD = "correct horse"\n', "PASSWORD = None\n", "service.py:1: medium (rated low by Bandit) B105"),
        (
            "import subprocess\n\nsubprocess.run(f'ls {x}', shell=True)\n",
            "import subprocess\n\nsubprocess.run(['ls', x])\n",
            "service.py:3: high B602",
        ),
    ],
    ids=["sql-injection", "hard-coded-password", "shell"],
)
def test_insecure_code(run: Run, tmp_path: Path, seeded: str, fixed: str, reported: str) -> None:
    file = tmp_path / "app" / "service.py"
    file.parent.mkdir()
    file.write_text(seeded, encoding="utf-8")
    done = run("scripts/ci/run_bandit.sh", file.parent)
    assert done.returncode == 1
    assert reported in done.stdout and "fix: " in done.stdout
    sarif = json.loads((tmp_path / "reports" / "bandit.sarif").read_text(encoding="utf-8"))
    assert sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == str(file)
    assert "block" in (tmp_path / "reports" / "bandit.md").read_text(encoding="utf-8")
    file.write_text(fixed, encoding="utf-8")
    assert run("scripts/ci/run_bandit.sh", file.parent).returncode == 0


def test_the_threshold_is_a_choice(run: Run, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text('PASSWORD = "correct horse"\n', encoding="utf-8")
    assert run("scripts/ci/run_bandit.sh", tmp_path, THRESHOLD="high").returncode == 0
    assert run("scripts/ci/run_bandit.sh", tmp_path, THRESHOLD="medium").returncode == 1


def test_unchecked_code_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (\n", encoding="utf-8")
    done = run("scripts/ci/run_bandit.sh", tmp_path)
    assert done.returncode == 1 and "broken.py was not checked" in done.stderr
    (tmp_path / "broken.py").unlink()
    done = run("scripts/ci/run_bandit.sh", tmp_path)
    assert done.returncode == 1 and "no file was checked" in done.stderr


@pytest.fixture(scope="session")
def gitleaks() -> None:
    """Skip, or in CI fail, without the scanner: building it takes longer than a test may."""
    if (ROOT / ".tools" / "gitleaks").exists():
        return
    if os.environ.get("CI") == "true":
        pytest.fail("gitleaks is not built; scripts/ci/run_tests.sh builds it before the tests of scripts")
    pytest.skip("gitleaks is not built; to build it: scripts/local/ensure_tools.sh gitleaks")


@pytest.mark.usefixtures("gitleaks")
def test_this_project_and_its_history_have_no_secrets(run: Run) -> None:
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if shallow.stdout != "false\n":
        pytest.skip("this is not a clone with the whole history")
    done = run("scripts/ci/scan_secrets.sh")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("gitleaks")
def test_a_secret_in_a_file_and_in_the_history(run: Run, tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *words], cwd=tmp_path / "tree", check=True, capture_output=True)

    file = tmp_path / "tree" / "settings.py"
    file.parent.mkdir()
    # Concatenated, so that the scanner does not find it in this file.
    secret = "ghp_" + "k3J9xQ2mZ7vR4tY8wB1nC6pL5sD0fG2hA9eU"
    file.write_text(f'token = "{secret}"\n', encoding="utf-8")
    done = run("scripts/ci/scan_secrets.sh", file.parent)
    assert done.returncode == 1
    assert str(file) in done.stdout and "github-pat" in done.stdout and secret not in done.stdout + done.stderr
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "with a secret")
    file.write_text('token = os.environ["TOKEN"]\n', encoding="utf-8")
    done = run("scripts/ci/scan_secrets.sh", file.parent)
    assert done.returncode == 1 and "settings.py" in done.stdout, "it is in the history"
    git("add", ".")
    git("commit", "-q", "--amend", "-m", "without")
    git("reflog", "expire", "--expire=now", "--all")
    git("gc", "-q", "--prune=now")
    assert run("scripts/ci/scan_secrets.sh", file.parent).returncode == 0


def test_an_uncovered_branch(run: Run, tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "service.py").write_text(
        "def sign(amount):\n    if amount < 0:\n        return 'debit'\n    return 'credit'\n", encoding="utf-8"
    )
    data = tmp_path / "data"

    def measure(*amounts: int) -> subprocess.CompletedProcess[str]:
        calls = "; ".join(f"sign({amount})" for amount in amounts)
        (tmp_path / "use.py").write_text(f"from app.service import sign\n{calls}\n", encoding="utf-8")
        coverage = [PYTHON, "-m", "coverage", "run", f"--rcfile={ROOT}/pyproject.toml", f"--data-file={data}"]
        subprocess.run([*coverage, "--source=app", "use.py"], cwd=tmp_path, check=True)
        return run("scripts/ci/coverage_gate.sh", data, "*/app/service.py", "90", tmp_path / "coverage.json")

    done = measure(1)
    assert done.returncode == 2
    assert "app/service.py" in done.stdout and " 3" in done.stdout and "fail-under=90" in done.stdout + done.stderr
    assert measure(1, -1).returncode == 0
    assert json.loads((tmp_path / "coverage.json").read_text(encoding="utf-8"))["totals"]["percent_covered"] == 100


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the checks and what they need, to seed faults in; it shares the environment."""
    folder = tmp_path / "clone"
    parts = (
        "scripts",
        "shared",
        "integration-tests/*.py",
        "integration-tests/harness",
        "integration-tests/local",
        "*.toml",
        ".flake8",
        ".ci",
    )
    # What tests read while they are collected.
    parts += ("requirements-*.txt", "load-tests", "clients", "docs/api.md")
    files = subprocess.run(["git", "ls-files", "-z", *parts], cwd=ROOT, capture_output=True, check=True).stdout
    folder.mkdir()
    subprocess.run(["xargs", "-0", "cp", "--parents", "-t", str(folder)], cwd=ROOT, input=files, check=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def test_an_unformatted_file(run: Run, clone: Path) -> None:
    file = clone / "shared" / "planted.py"
    file.write_text("x = { 'a':1 }\n", encoding="utf-8")
    done = run(clone / "scripts" / "ci" / "lint.sh", "black")
    assert (
        done.returncode == 1
        and "shared/planted.py" in done.stdout + done.stderr
        and "failed check: black" in done.stderr
    )
    file.unlink()
    assert run(clone / "scripts" / "ci" / "lint.sh", "black").returncode == 0


def test_a_failing_flow(run: Run, clone: Path) -> None:
    flow = clone / "integration-tests" / "local" / "test_planted.py"
    broken = "def test_money_arrives():\n    assert {'balance': 90} == {'balance': 100}\n"
    flow.write_text(broken, encoding="utf-8")
    command = (clone / "scripts" / "ci" / "run_tests.sh", "all", "-k", "test_money_arrives", "-p", "no:cacheprovider")
    done = run(*command, SUITES="local")
    assert done.returncode == 1
    assert "test_planted.py:2" in done.stdout and "FAILED: local" in done.stdout
    assert done.stdout.rstrip().endswith("0 passed, 1 failed, 0 skipped")
    flow.write_text(broken.replace("90", "100"), encoding="utf-8")
    done = run(*command, SUITES="local")
    assert done.returncode == 0 and done.stdout.rstrip().endswith("1 passed, 0 failed, 0 skipped")


def test_a_load_with_five_percent_errors(run: Run, tmp_path: Path) -> None:
    head = "Type,Name,Request Count,Failure Count,Requests/s,50%,95%,99%\n"
    (tmp_path / "load_exceptions.csv").write_text("Count,Message,Traceback,Nodes\n", encoding="utf-8")

    def check(failures: int) -> subprocess.CompletedProcess[str]:
        stats = f"{head},Aggregated,1000,{failures},16.6,12,30,40\n"
        (tmp_path / "load_stats.csv").write_text(stats, encoding="utf-8")
        return run(PYTHON, "load-tests/check_report.py", tmp_path / "load", "250", "0.1")

    done = check(50)
    assert done.returncode == 1 and "error rate 5.00 % exceeds 0.1 %" in done.stderr
    assert check(0).returncode == 0


@pytest.fixture
def scan(run: Run, tmp_path: Path) -> Run:
    """Evaluate reports of scanners as cve_scan.sh does."""
    (tmp_path / "requirements.txt").write_text("jinja2==3.1.4 \\\n    --hash=sha256:00\n", encoding="utf-8")

    def judge(trivy: Any, pip_audit: Any, hours: float = 1, ignored: Any = None) -> subprocess.CompletedProcess[str]:
        updated = (datetime.now(UTC) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.123456789Z")
        reports = {"trivy": trivy, "pip-audit": pip_audit, "version": {"VulnerabilityDB": {"UpdatedAt": updated}}}
        for name, report in reports.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(report), encoding="utf-8")
        words = ["--trivy", tmp_path / "trivy.json", "--trivy-version", tmp_path / "version.json"]
        if ignored is not None:
            (tmp_path / "ignored.yaml").write_text(json.dumps({"vulnerabilities": ignored}), encoding="utf-8")
            words += ["--ignore", tmp_path / "ignored.yaml"]
        words += ["--pip-audit", tmp_path / "pip-audit.json", "--requirements", tmp_path / "requirements.txt"]
        return run(PYTHON, "scripts/check_vulnerabilities.py", *words, "--body", tmp_path / "issue.md")

    return judge


def test_a_vulnerable_dependency(scan: Run, tmp_path: Path) -> None:
    done = scan(recorded.trivy(recorded.OPENSSL, recorded.UNFIXED), recorded.pip_audit(recorded.JINJA))
    assert done.returncode == 1 and "2 of 3 are blocking" in done.stderr
    assert "CRITICAL CVE-2026-0001 openssl 3.5.1-1 in bank/account-service:1; patched in 3.5.1-1+deb13u2" in done.stdout
    # The fix of the installed branch, of three maintained ones.
    assert "CVE-2024-56326 jinja2 3.1.4 in requirements; patched in 3.1.5; bump: yes" in done.stdout
    assert "CVE-2026-0002 openssl 3.5.1-1 in bank/account-service:1; patched in nothing yet" in done.stdout
    text = (tmp_path / "issue.md").read_text(encoding="utf-8")
    assert text.startswith(check_vulnerabilities.MARKER) and "first patched" in text and "CVE-2026-0001" in text
    assert scan(recorded.trivy(recorded.UNFIXED), recorded.pip_audit()).returncode == 0


@pytest.mark.parametrize(
    ("changes", "blocks"),
    [
        ({"Severity": "CRITICAL", "FixedVersion": ""}, False),
        ({"Severity": "MEDIUM"}, False),
        ({"Severity": "HIGH"}, True),
        ({"Severity": "UNKNOWN"}, True),
    ],
)
def test_a_vulnerable_image_blocks_if_there_is_a_patch(scan: Run, changes: dict[str, str], blocks: bool) -> None:
    done = scan(recorded.trivy({**recorded.OPENSSL, **changes}), recorded.pip_audit())
    assert done.returncode == int(blocks) and "CVE-2026-0001" in done.stdout


def test_any_vulnerability_of_a_dependency_blocks(scan: Run) -> None:
    low = {**recorded.OPENSSL, "VulnerabilityID": "CVE-2024-56326", "PkgName": "jinja2", "Severity": "LOW"}
    unpatched = {**recorded.JINJA, "fix_versions": []}
    assert scan(recorded.trivy(low), recorded.pip_audit(unpatched)).returncode == 1


def _ignored(days: int, **changes: Any) -> list[dict[str, Any]]:
    until = (datetime.now(UTC).date() + timedelta(days=days)).isoformat()
    return [{"id": "CVE-2026-0001", "statement": "not reachable", "expired_at": until, **changes}]


@pytest.mark.parametrize(
    ("ignored", "told"),
    [
        (_ignored(30), ""),
        (_ignored(30, purls=["pkg:deb/debian/openssl@3.5"]), ""),
        (_ignored(30, purls=["pkg:deb/debian/curl"]), "1 of 1 are blocking"),
        # Midnight may pass before the test runs.
        (_ignored(-2), "1 of 1 are blocking"),
        (_ignored(92), "more than 90 days ahead"),
        (_ignored(30, statement=" "), "no statement"),
        (_ignored(30, expired_at="never"), "is not an entry"),
        ([{"id": "CVE-2026-0001"}], "is not an entry"),
    ],
)
def test_an_accepted_vulnerability_is_justified_and_expires(scan: Run, ignored: Any, told: str) -> None:
    done = scan(recorded.trivy(recorded.OPENSSL), recorded.pip_audit(), ignored=ignored)
    assert done.returncode == (1 if told else 0) and told in done.stderr
    if not told:
        assert f"accepted until {ignored[0]['expired_at']}: not reachable" in done.stdout


@pytest.mark.parametrize(("days", "accepted", "problems"), [(-1, 0, 0), (0, 1, 0), (90, 1, 0), (91, 0, 1)])
def test_an_acceptance_ends_with_its_last_day_and_within_90_days(days: int, accepted: int, problems: int) -> None:
    today = datetime.now(UTC).date()
    until = (today + timedelta(days=days)).isoformat()
    entry = {"id": "CVE-2026-0001", "statement": "not reachable", "expired_at": until}
    found = check_vulnerabilities.read_ignore_file({"vulnerabilities": [entry]}, today)
    assert tuple(map(len, found)) == (accepted, problems)


def test_the_ignore_file_is_valid(scan: Run) -> None:
    accepted = json.loads((ROOT / ".trivyignore.yaml").read_text(encoding="utf-8"))["vulnerabilities"]
    assert scan(recorded.trivy(), recorded.pip_audit(), ignored=accepted).returncode == 0


@pytest.mark.parametrize(
    ("trivy", "pip_audit", "hours", "told"),
    [
        (recorded.trivy(), {"dependencies": [recorded.SKIPPED]}, 1, "jinja2 was skipped"),
        (recorded.trivy(), {"dependencies": []}, 1, "jinja2 is required, but missing from pip-audit's report"),
        ({"ArtifactName": "bank/account-service:1"}, recorded.pip_audit(), 1, "no packages in bank/account-service:1"),
        (recorded.trivy(), recorded.pip_audit(), 72, "older than 48 h"),
        ([], recorded.pip_audit(), 1, "trivy.json is not a valid report"),
    ],
    ids=["skipped", "left-out", "no-packages", "old-database", "no-report"],
)
def test_an_incomplete_scan_fails(scan: Run, trivy: Any, pip_audit: Any, hours: float, told: str) -> None:
    done = scan(trivy, pip_audit, hours)
    assert done.returncode == 1 and told in done.stderr


def test_a_rating_counts_for_the_same_advisory_elsewhere() -> None:
    found, _ = check_vulnerabilities.read_pip_audit(recorded.pip_audit(recorded.JINJA), set())
    rated, _ = check_vulnerabilities.read_trivy(
        recorded.trivy(
            {**recorded.OPENSSL, "VulnerabilityID": "CVE-2024-56326", "PkgName": "jinja2", "Severity": "MEDIUM"}
        )
    )
    assert {one.severity for one in check_vulnerabilities.merge(found)} == {"UNKNOWN"}
    assert {one.severity for one in check_vulnerabilities.merge(found + rated)} == {"MEDIUM"}


@pytest.mark.parametrize("result", ["failure", "cancelled", "skipped"])
def test_a_job_that_is_not_green(run: Run, result: str) -> None:
    needs = {"lint": {"result": "success"}, "unit": {"result": result}}
    done = run(PYTHON, "-m", "scripts.ci.gate", NEEDS=json.dumps(needs))
    assert done.returncode == 1 and f"unit: {result}" in done.stderr
    needs["unit"]["result"] = "success"
    assert run(PYTHON, "-m", "scripts.ci.gate", NEEDS=json.dumps(needs)).returncode == 0
    assert run(PYTHON, "-m", "scripts.ci.gate", NEEDS="{}").returncode == 1


def test_a_missing_tool_fails_in_ci(run: Run, clone: Path) -> None:
    (clone / ".ci" / "tools" / "actionlint" / "go.mod").unlink()
    done = run(clone / "scripts" / "ci" / "lint.sh", "actionlint", CI="true")
    assert done.returncode == 1 and "actionlint (not available)" in done.stderr
    done = run(clone / "scripts" / "ci" / "lint.sh", "actionlint", "black", CI="")
    assert done.returncode == 0 and "skipped (tool not available): actionlint" in done.stderr
