"""Render the results of CI as a comment for a pull request: `NEEDS=… python3 -m scripts.ci.pr_comment REPORTS FILE`.

REPORTS contains one folder per job, the downloaded artifacts of the run. The code of the pull request wrote them, so
they are untrusted data: an invalid report only loses its own numbers.
Requires only Python. On GitHub the text is also added to the job summary (GITHUB_STEP_SUMMARY).
"""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

from scripts.lib.markdown import cell, table
from scripts.ci.sum_junit import count

MARKER = "<!-- distributed-banking-ops:ci -->"
# GitHub's maximum length of a comment.
_MAX_LENGTH = 65_000
# Larger reports are ignored.
_MAX_REPORT_BYTES = 5_000_000
_SIGNS = {"success": "✅", "failure": "❌", "cancelled": "⏹️", "skipped": "⏭️"}
_MAX_FINDINGS = 30


def _files(folder: Path, pattern: str) -> list[Path]:
    paths = (path for path in folder.rglob(pattern) if path.is_file() and not path.is_symlink())
    return sorted(path for path in paths if path.stat().st_size <= _MAX_REPORT_BYTES)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def jobs(needs: dict[str, dict[str, Any]]) -> str:
    """Return the result of each job."""
    rows = [[name, f"{_SIGNS.get(need['result'], '❔')} {need['result']}"] for name, need in needs.items()]
    return table(["job", "result"], rows)


def tests(folder: Path) -> str:
    """Return the numbers of tests per suite and run."""
    rows = []
    for report in _files(folder, "*.xml"):
        try:
            numbers = count(report)
        except ValueError:
            numbers = (0, 1, 0)
        rows.append([report.relative_to(folder).parts[0], report.stem, *numbers])
    return table(["run", "suite", "passed", "failed", "skipped"], rows) if rows else "no results"


def coverage(folder: Path) -> str:
    """Return the coverage per service, of the files that the coverage gate checks."""
    rows = []
    for report in _files(folder, "coverage-*.json"):
        try:
            totals = _json(report)["totals"]
            row = [f"{float(totals['percent_covered']):.1f} %", int(totals["missing_branches"])]
        except (KeyError, TypeError, ValueError):
            continue
        rows.append([report.relative_to(folder).parts[0], report.stem.removeprefix("coverage-"), *row])
    return table(["run", "service", "coverage", "uncovered branches"], rows) if rows else "no results"


def load(folder: Path) -> str:
    """Return Locust's totals of the run."""
    for report in _files(folder, "load_stats.csv"):
        try:
            with report.open(encoding="utf-8", newline="") as file:
                total = next(row for row in csv.DictReader(file) if row["Name"] == "Aggregated")
            requests, failed = int(total["Request Count"]), int(total["Failure Count"])
            head = ["requests", "per second", "errors", "p50 ms", "p95 ms", "p99 ms"]
            rate = f"{float(total['Requests/s']):.1f}"
            return table(head, [[requests, rate, failed, total["50%"], total["95%"], total["99%"]]])
        except (OSError, StopIteration, KeyError, TypeError, ValueError, csv.Error):
            continue
    return "no results"


def findings(folder: Path) -> str:
    """Return the findings in the scanners' SARIF logs."""
    rows: set[tuple[str, str, str]] = set()
    logs = _files(folder, "*.sarif")
    for log in logs:
        try:
            for run in _json(log)["runs"]:
                for result in run["results"]:
                    place = result["locations"][0]["physicalLocation"]
                    where = f"{place['artifactLocation']['uri']}:{place['region']['startLine']}"
                    rows.add((str(result["ruleId"]), where, str(result["message"]["text"])[:200]))
        except (KeyError, TypeError, IndexError):
            rows.add(("unreadable", log.name, "not a valid SARIF log"))
    if not logs:
        return "no reports"
    if not rows:
        return "none"
    shown = table(["rule", "location", "finding"], [list(row) for row in sorted(rows)[:_MAX_FINDINGS]])
    return shown + (f"\n\nand {len(rows) - _MAX_FINDINGS} more" if len(rows) > _MAX_FINDINGS else "")


def render(needs: dict[str, dict[str, Any]], folder: Path, commit: str) -> str:
    """Return the text of the comment."""
    green = bool(needs) and all(need["result"] == "success" for need in needs.values())
    parts = [
        MARKER,
        f"### {'✅ All jobs succeeded' if green else '❌ Some jobs failed'} at {cell(commit[:12])}",
        jobs(needs),
        f"**Tests**\n\n{tests(folder)}",
        f"**Coverage**\n\n{coverage(folder)}",
        f"**Load** (10 customers, one minute)\n\n{load(folder)}",
        f"**Security findings**\n\n{findings(folder)}",
    ]
    text = "\n\n".join(parts) + "\n"
    return text if len(text) <= _MAX_LENGTH else text[:_MAX_LENGTH] + "\n\n… truncated; see the reports.\n"


def main() -> int:
    """Write the comment to the file named on the command line."""
    reports, target = Path(sys.argv[1]), Path(sys.argv[2])
    text = render(json.loads(os.environ["NEEDS"]), reports, os.environ.get("COMMIT", "this commit"))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(text)
    print(f"comment: {target}, {len(text)} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
