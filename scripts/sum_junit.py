"""Add up JUnit reports: `python -m scripts.sum_junit PATH …` (without .xml) prints `N passed, N failed, N skipped`.

Exits with 1 when a test failed or none passed; a suite without results counts as one failure.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree  # nosec B405


def count(report: Path) -> tuple[int, int, int]:
    """Return how many passed, failed and were skipped."""
    # The files are ours, so the standard parser will do.
    try:
        suites = ElementTree.parse(report).getroot().iter("testsuite")  # nosec B314
    except (OSError, ElementTree.ParseError):
        return 0, 1, 0
    passed = failed = skipped = 0
    for suite in suites:
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        left_out = int(suite.get("skipped", 0))
        passed += int(suite.get("tests", 0)) - bad - left_out
        failed += bad
        skipped += left_out
    return (passed, failed, skipped) if passed + failed + skipped else (0, 1, 0)


def main() -> int:
    """Print the sum over all reports."""
    passed, failed, skipped = (sum(column) for column in zip(*(count(Path(f"{arg}.xml")) for arg in sys.argv[1:])))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
