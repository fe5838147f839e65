"""The summary of a run: suites, why tests skipped, what did not run, and the sum as the last line."""

from pathlib import Path

import pytest

from scripts.ci import sum_junit

_REPORT = """<testsuites><testsuite tests="4" failures="1" errors="0" skipped="2" time="61.5">
<testcase name="a"/><testcase name="b"><failure message="no"/></testcase>
<testcase name="c"><skipped message="NGINX is not installed"/></testcase>
<testcase name="d"><skipped message="NGINX is not installed"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def reports(tmp_path: Path) -> list[Path]:
    (tmp_path / "shared.xml").write_text(_REPORT, encoding="utf-8")
    (tmp_path / "scripts.xml").write_text(_REPORT.replace('failures="1"', 'failures="0"'), encoding="utf-8")
    return [tmp_path / f"{name}.xml" for name in ("shared", "scripts")]


def test_it_says_what_ran_what_skipped_and_what_did_not_run(reports: list[Path]) -> None:
    lines = list(sum_junit.summary(reports, ["compose", "ansible", "local", "simulation"]))
    assert [line.split() for line in lines[:2]] == [
        ["shared", "1", "passed", "1", "failed", "2", "skipped", "62", "s"],
        ["scripts", "2", "passed", "0", "failed", "2", "skipped", "62", "s"],
    ]
    assert lines[2:] == [
        "skipped 4: NGINX is not installed",
        "not run: compose (needs a Docker engine and minutes: make test-docker)",
        "not run: ansible (needs a Docker engine and minutes: make test-ansible)",
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
