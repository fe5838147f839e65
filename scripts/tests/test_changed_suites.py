"""`make test CHANGED=1` selects the suites that import or read the changed files."""

import ast
from pathlib import Path

import pytest

from scripts.ci import changed_suites
from scripts.docs import document_names
from scripts.ci.changed_suites import DEPENDS_ON, EVERYWHERE, affected
from shared.testing.paths import ROOT

SUITES = list(DEPENDS_ON)
# The folders with the Python files of each suite.
FOLDERS = {
    suite: [ROOT / suite] if (ROOT / suite / "tests").is_dir() else [ROOT / "integration-tests" / suite]
    for suite in SUITES
}
PROJECT = ("shared", "scripts", "monitoring")


def imported(file: Path) -> set[str]:
    """Return the project's packages that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found & set(PROJECT)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_depends_on_every_package_that_it_imports(suite: str) -> None:
    files = [file for folder in FOLDERS[suite] for file in folder.rglob("*.py")]
    assert files
    for file in files:
        for package in imported(file):
            assert f"{package}/".startswith((*EVERYWHERE, *DEPENDS_ON[suite])), (file, package)


@pytest.mark.parametrize("suite", SUITES)
def test_what_a_suite_depends_on_exists(suite: str) -> None:
    for beginning in (*EVERYWHERE, *DEPENDS_ON[suite]):
        assert any(ROOT.glob(f"{beginning.rstrip('/')}*")), beginning


def test_every_suite_is_known() -> None:
    whole = {name for name in document_names.suites() if not name.startswith(("docker-", "ansible-"))}
    runnable = {name for name in whole if name in SUITES or list(ROOT.glob(f"integration-tests/{name}/**/test_*.py"))}
    assert runnable == set(SUITES)


@pytest.mark.parametrize(
    ("path", "broken"),
    [
        ("shared/http/auth.py", SUITES),
        ("shared/testing/local_stack.py", SUITES),
        ("requirements-dev.txt", SUITES),
        ("shared/tests/test_auth.py", ["shared", "scripts"]),
        ("account-service/tests/test_api.py", ["account-service", "scripts"]),
        ("autoscale-service/app/policy.py", ["autoscale-service", "scripts", "monitoring", "compose", "ansible"]),
        ("account-service/app/api.py", None),
        ("integration-tests/local/test_run.py", ["scripts", "local"]),
        ("integration-tests/harness/client.py", ["scripts", "simulation", "local", "compose", "ansible"]),
        ("docs/adr/0002-lean-routes.md", ["scripts", "monitoring", "local", "compose"]),
        ("LICENSE", ["scripts"]),
    ],
)
def test_a_change_selects_what_it_can_break(path: str, broken: list[str] | None) -> None:
    if broken is None:
        broken = ["account-service", "scripts", "monitoring", "simulation", "local", "compose", "ansible"]
    assert affected([path], SUITES) == broken


def test_only_suites_that_were_asked_for_are_selected() -> None:
    assert affected(["shared/http/auth.py"], ["shared", "compose-bank"]) == ["shared", "compose-bank"]
    assert affected([], SUITES) == []


def test_without_a_merge_base_everything_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("CHANGED", "no-such-branch")
    monkeypatch.setattr(changed_suites.sys, "argv", ["changed_suites", "shared", "local"])
    assert changed_suites.main() == 0
    assert capsys.readouterr().out == "shared local\n"
