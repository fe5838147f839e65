"""Check Bandit's JSON report against a severity threshold: `python scripts/check_bandit_results.py REPORT.json …`

Prints each finding with file, line, rule and remediation. Exits 1 if a finding has the threshold's severity (default
medium) or above, or if the report is incomplete, for example because Bandit could not parse a file.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    # Run as a script, Python searches modules only in the folder of this file.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.lib.markdown import cell, table  # noqa: E402  # pylint: disable=wrong-import-position

SEVERITIES = ("low", "medium", "high")
# The corresponding levels of SARIF.
_LEVELS = {"low": "note", "medium": "warning", "high": "error"}

# Stricter than Bandit, which rates SQL injection medium and hard-coded passwords low.
RAISED = {"B608": "high", "B105": "medium", "B106": "medium", "B107": "medium"}

_REMEDIES = {
    "B101": "raise an exception: python -O removes assertions",
    "B102": "avoid exec(); call a function directly",
    "B104": "bind to 127.0.0.1, or read the address from the settings",
    "B105": "read it from a file or the environment, and change the password: it is in the history",
    "B106": "read it from a file or the environment, and change the password: it is in the history",
    "B107": "remove the default; let the caller pass the password",
    "B108": "use tempfile; names in /tmp are predictable",
    "B110": "catch specific exceptions and log them",
    "B113": "set a timeout for the request",
    "B301": "use JSON: pickle executes code from the data",
    "B303": "use hashlib.sha256",
    "B311": "use the module secrets for unpredictable values",
    "B324": "use hashlib.sha256, or set usedforsecurity=False",
    "B501": "keep certificate verification on; set a CA bundle instead",
    "B506": "use yaml.safe_load",
    "B602": "pass a list of arguments without shell=True",
    "B605": "use subprocess with a list of arguments",
    "B608": "pass values as bound parameters (:name), not in the text of the statement",
}


@dataclass(frozen=True)
class Finding:
    """A finding of Bandit: `severity` is the project's, `rated` is Bandit's."""

    file: str
    line: int
    rule: str
    name: str
    text: str
    severity: str
    rated: str
    more: str

    @property
    def remedy(self) -> str:
        """How to fix such a finding, or a link to its documentation."""
        return _REMEDIES.get(self.rule, f"see {self.more}")


def read(report: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    """Return the findings, most severe first, and a line for each reason why the report is incomplete."""
    problems = [f"{error['filename']} was not checked: {error['reason']}" for error in report["errors"]]
    if not any(name != "_totals" for name in report["metrics"]):
        problems.append("no file was checked")
    findings = [
        Finding(
            file=result["filename"].removeprefix("./"),
            line=result["line_number"],
            rule=result["test_id"],
            name=result["test_name"],
            text=result["issue_text"],
            severity=RAISED.get(result["test_id"], result["issue_severity"].lower()),
            rated=result["issue_severity"].lower(),
            more=result["more_info"],
        )
        for result in report["results"]
    ]
    findings.sort(key=lambda finding: (-SEVERITIES.index(finding.severity), finding.file, finding.line))
    return findings, problems


def blocks(finding: Finding, threshold: str) -> bool:
    """Return whether the finding has the threshold's severity or above."""
    return SEVERITIES.index(finding.severity) >= SEVERITIES.index(threshold)


def sarif(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings as a SARIF 2.1.0 log, which GitHub displays next to the lines."""
    rules = {finding.rule: finding for finding in findings}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "Bandit",
                        "informationUri": "https://bandit.readthedocs.io/",
                        "rules": [
                            {
                                "id": rule,
                                "name": finding.name,
                                "help": {"text": finding.remedy},
                                "helpUri": finding.more,
                            }
                            for rule, finding in sorted(rules.items())
                        ],
                    }
                },
                "results": [
                    {
                        "ruleId": finding.rule,
                        "level": _LEVELS[finding.severity],
                        "message": {"text": f"{finding.text} {finding.remedy}"},
                        "locations": [
                            {
                                "physicalLocation": {
                                    "artifactLocation": {"uri": finding.file},
                                    "region": {"startLine": finding.line},
                                }
                            }
                        ],
                    }
                    for finding in findings
                ],
            }
        ],
    }


def summary(findings: list[Finding], problems: list[str], threshold: str) -> str:
    """Return the findings and problems as Markdown."""
    blocking = sum(blocks(finding, threshold) for finding in findings)
    lines = [f"**Bandit**: {len(findings)} findings, {blocking} of them blocking ({threshold} or above)"]
    lines += [f"- {cell(problem)}" for problem in problems]
    if findings:
        rows = [
            [finding.severity, f"{finding.file}:{finding.line}", finding.rule, finding.text, finding.remedy]
            for finding in findings
        ]
        lines += ["", table(["severity", "location", "rule", "finding", "remediation"], rows)]
    return "\n".join(lines) + "\n"


def _line(finding: Finding) -> str:
    rated = "" if finding.rated == finding.severity else f" (rated {finding.rated} by Bandit)"
    location = f"{finding.file}:{finding.line}"
    return f"{location}: {finding.severity}{rated} {finding.rule} {finding.text}\n    fix: {finding.remedy}"


def main() -> int:
    """Check the report that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument(
        "--threshold", choices=SEVERITIES, default="medium", help="minimum blocking severity (default medium)"
    )
    parser.add_argument("--sarif", type=Path, help="file for the findings as SARIF")
    parser.add_argument("--summary", type=Path, help="file for the findings as Markdown")
    arguments = parser.parse_args()
    findings, problems = read(json.loads(arguments.report.read_text(encoding="utf-8")))
    if arguments.sarif:
        arguments.sarif.write_text(json.dumps(sarif(findings), indent=1) + "\n", encoding="utf-8")
    if arguments.summary:
        arguments.summary.write_text(summary(findings, problems, arguments.threshold), encoding="utf-8")
    for finding in findings:
        print(_line(finding))
    for problem in problems:
        print(f"bandit: FAILED: {problem}", file=sys.stderr)
    blocking = sum(blocks(finding, arguments.threshold) for finding in findings)
    if blocking:
        print(f"bandit: FAILED: {blocking} findings of severity {arguments.threshold} or above", file=sys.stderr)
    elif not problems:
        print(f"bandit: no findings of severity {arguments.threshold} or above")
    return 1 if blocking or problems else 0


if __name__ == "__main__":
    sys.exit(main())
