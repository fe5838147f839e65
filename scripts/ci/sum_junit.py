"""Summarize JUnit reports: `python -m scripts.ci.sum_junit [--not-run "SUITE …"] PATH …` (paths without .xml).

Prints a row per suite, the failed tests, the reasons of skipped tests, the suites that did not run with the command to
run them, and finally `N passed, N failed, N skipped`. Exits 1 if a test failed or none passed; a suite without results
counts as one failure.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree  # nosec B405

# Suites that `make test` does not run: the reason and the command to run them.
ON_DEMAND = {
    "compose": "needs Docker and takes minutes: make test-docker",
    "ansible": "needs Docker and takes minutes: make test-ansible",
}


def _suites(report: Path) -> list[ElementTree.Element]:
    """Return the test suites of a report; none if it is missing or invalid."""
    # Our own test runs wrote the files, so the standard parser is safe.
    try:
        return list(ElementTree.parse(report).getroot().iter("testsuite"))  # nosec B314
    except (OSError, ElementTree.ParseError):
        return []


def count(report: Path) -> tuple[int, int, int]:
    """Return the numbers of passed, failed and skipped tests."""
    passed = failed = skipped = 0
    for suite in _suites(report):
        suite_failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        suite_skipped = int(suite.get("skipped", 0))
        passed += int(suite.get("tests", 0)) - suite_failed - suite_skipped
        failed += suite_failed
        skipped += suite_skipped
    return (passed, failed, skipped) if passed + failed + skipped else (0, 1, 0)


def skip_reasons(reports: Sequence[Path]) -> Counter[str]:
    """Return the number of skipped tests per reason."""
    cases = (case for report in reports for suite in _suites(report) for case in suite.iter("skipped"))
    return Counter(case.get("message", "no reason given") for case in cases)


def failures(report: Path) -> Iterator[str]:
    """Yield the failed tests and the first lines of their messages."""
    for case in (case for suite in _suites(report) for case in suite.iter("testcase")):
        for problem in (*case.iter("failure"), *case.iter("error")):
            message = (problem.get("message") or "").partition("\n")[0][:200]
            yield f"{case.get('classname')}::{case.get('name')}: {message}"


def seconds(report: Path) -> float:
    """Return the duration of the tests of a report."""
    return sum(float(suite.get("time", 0)) for suite in _suites(report))


def summary(reports: Sequence[Path], not_run: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the summary, the total of all suites last."""
    counts = [count(report) for report in reports]
    for report, numbers in zip(reports, counts):
        passed, failed, skipped = numbers
        yield f"{report.stem:24} {passed:5} passed {failed:4} failed {skipped:4} skipped {seconds(report):5.0f} s"
    for report in reports:
        yield from (f"failed: {line}" for line in failures(report))
    for reason, times in skip_reasons(reports).most_common():
        yield f"skipped {times}: {reason}"
    for suite in not_run:
        if suite in ON_DEMAND:
            yield f"not run: {suite} ({ON_DEMAND[suite]})"
    if others := [suite for suite in not_run if suite not in ON_DEMAND]:
        yield f"not run: {', '.join(others)} (not selected)"
    passed, failed, skipped = (sum(column) for column in zip(*counts))
    yield f"{passed} passed, {failed} failed, {skipped} skipped"


def main() -> int:
    """Print the summary of all reports."""
    parser = argparse.ArgumentParser(description="Summarize JUnit reports.")
    parser.add_argument("--not-run", default="", help="suites that did not run, separated by spaces")
    parser.add_argument("paths", nargs="+")
    options = parser.parse_args()
    reports = [Path(f"{path}.xml") for path in options.paths]
    print("\n".join(summary(reports, options.not_run.split())))
    counts = [count(report) for report in reports]
    return 1 if any(failed for _, failed, _ in counts) or not any(passed for passed, _, _ in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
