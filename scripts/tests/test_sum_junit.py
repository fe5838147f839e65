"""The summary of a run: a row per suite, reasons of skipped tests, suites not run, and the total as the last line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.ci import sum_junit
from shared.testing.local_stack import ROOT

_FAILURE = '<failure message="no&#10;more"/>'
_REPORT = f"""<testsuites><testsuite tests="4" failures="1" errors="0" skipped="2" time="61.5">
<testcase name="a"/><testcase classname="tests.test_letters" name="b">{_FAILURE}</testcase>
<testcase name="c"><skipped message="NGINX is not installed"/></testcase>
<testcase name="d"><skipped message="NGINX is not installed"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def reports(tmp_path: Path) -> list[Path]:
    (tmp_path / "shared.xml").write_text(_REPORT, encoding="utf-8")
    (tmp_path / "scripts.xml").write_text(
        _REPORT.replace('failures="1"', 'failures="0"').replace(_FAILURE, ""), encoding="utf-8"
    )
    return [tmp_path / f"{name}.xml" for name in ("shared", "scripts")]


def test_the_summary_lists_run_skipped_and_missing_suites(reports: list[Path]) -> None:
    lines = list(sum_junit.summary(reports, ["compose", "ansible", "local", "simulation"]))
    assert [line.split() for line in lines[:2]] == [
        ["shared", "1", "passed", "1", "failed", "2", "skipped", "62", "s"],
        ["scripts", "2", "passed", "0", "failed", "2", "skipped", "62", "s"],
    ]
    assert lines[2:] == [
        "failed: tests.test_letters::b: no",
        "skipped 4: NGINX is not installed",
        "not run: compose (needs Docker and takes minutes: make test-docker)",
        "not run: ansible (needs Docker and takes minutes: make test-ansible)",
        "not run: local, simulation (not selected)",
        "3 passed, 1 failed, 4 skipped",
    ]


def test_a_suite_without_a_report_has_failed(tmp_path: Path, reports: list[Path]) -> None:
    lines = list(sum_junit.summary([reports[1], tmp_path / "gone.xml"], []))
    assert lines[-1] == "2 passed, 1 failed, 2 skipped"


@pytest.mark.parametrize(("name", "code"), [("shared", 1), ("scripts", 0), ("gone", 1)])
def test_a_failure_is_an_exit_code(reports: list[Path], monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    monkeypatch.setattr(sum_junit.sys, "argv", ["sum_junit", str(reports[0].with_name(name))])
    assert sum_junit.main() == code


_SUITE_WITHOUT_A_STACK = """
import pytest

@pytest.fixture(scope="session")
def engine():
    pytest.skip("no engine")

@pytest.fixture(scope="session")
def stack():
    raise OSError("the stack does not start")

@pytest.mark.parametrize("number", range(3))
def test_engine(engine, number): pass

@pytest.mark.parametrize("number", range(50))
def test_stack(stack, number): pass
"""


def test_a_stack_that_does_not_start_is_one_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "test_stack.py").write_text(_SUITE_WITHOUT_A_STACK, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "shared.testing.fixtures", "--junitxml=stack.xml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    assert "the fixture stack failed: the stack does not start" in done.stdout and len(done.stdout.splitlines()) < 60
    assert sum_junit.count(tmp_path / "stack.xml") == (0, 1, 3)
