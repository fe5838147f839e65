"""Write what CI found as one comment for a pull request: `NEEDS=… python3 -m scripts.ci.pr_comment REPORTS FILE`.

REPORTS holds a folder of reports for each job, as the artifacts of a run are downloaded. They come from the pull
request's own code, so they are read as data and never trusted: a broken one costs its figures and nothing else.
Needs nothing but Python. On GitHub the text is also added to the summary of the run (GITHUB_STEP_SUMMARY).
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
# GitHub takes no longer comment.
_LIMIT = 65_000
# Reports that take longer to read than they are worth.
_LARGEST = 5_000_000
_SIGNS = {"success": "✅", "failure": "❌", "cancelled": "⏹️", "skipped": "⏭️"}
_FINDINGS_SHOWN = 30


def _files(folder: Path, pattern: str) -> list[Path]:
    found = (path for path in folder.rglob(pattern) if path.is_file() and not path.is_symlink())
    return sorted(path for path in found if path.stat().st_size <= _LARGEST)


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
    """Return the numbers of tests per suite, over all its runs."""
    rows = []
    for report in _files(folder, "*.xml"):
        try:
            numbers = count(report)
        except ValueError:
            numbers = (0, 1, 0)
        rows.append([report.relative_to(folder).parts[0], report.stem, *numbers])
    return table(["run", "suite", "passed", "failed", "skipped"], rows) if rows else "no results"


def coverage(folder: Path) -> str:
    """Return the coverage that the gate holds, per suite."""
    rows = []
    for report in _files(folder, "coverage-*.json"):
        try:
            totals = _json(report)["totals"]
            row = [f"{float(totals['percent_covered']):.1f} %", int(totals["missing_branches"])]
        except (KeyError, TypeError, ValueError):
            continue
        rows.append([report.relative_to(folder).parts[0], report.stem.removeprefix("coverage-"), *row])
    return table(["run", "service", "coverage of what is held", "branches not taken"], rows) if rows else "no figures"


def load(folder: Path) -> str:
    """Return Locust's figures of the whole run."""
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
    return "no figures"


def findings(folder: Path) -> str:
    """Return what the scanners found, out of their SARIF logs."""
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
            rows.add(("unreadable", log.name, "this log is no SARIF"))
    if not logs:
        return "no reports"
    if not rows:
        return "none"
    shown = table(["rule", "where", "what"], [list(row) for row in sorted(rows)[:_FINDINGS_SHOWN]])
    return shown + (f"\n\nand {len(rows) - _FINDINGS_SHOWN} more" if len(rows) > _FINDINGS_SHOWN else "")


def render(needs: dict[str, dict[str, Any]], folder: Path, commit: str) -> str:
    """Return the comment."""
    green = bool(needs) and all(need["result"] == "success" for need in needs.values())
    parts = [
        MARKER,
        f"### {'✅ all green' if green else '❌ not green'} at {cell(commit[:12])}",
        jobs(needs),
        f"**Tests**\n\n{tests(folder)}",
        f"**Coverage**\n\n{coverage(folder)}",
        f"**Load** (10 customers, one minute)\n\n{load(folder)}",
        f"**Findings** of the security scan\n\n{findings(folder)}",
    ]
    text = "\n\n".join(parts) + "\n"
    return text if len(text) <= _LIMIT else text[:_LIMIT] + "\n\n… cut off here; the reports have it all.\n"


def main() -> int:
    """Render the comment into the file that the command line names."""
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
