"""Hold Bandit's JSON report against a threshold: `python scripts/check_bandit_results.py REPORT.json …`

Prints each finding with file, line, rule and how to mend it. Exits 1 when one is as severe as the threshold (default
medium), and when the report does not show that everything was read: a file that Bandit could not parse is not clean.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    # Called by its path, Python looks for modules beside this file only.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.lib.markdown import cell, table  # noqa: E402  # pylint: disable=wrong-import-position

SEVERITIES = ("low", "medium", "high")
# SARIF's words for them.
_LEVELS = {"low": "note", "medium": "warning", "high": "error"}

# Where a bank is stricter than Bandit: it rates SQL made of strings medium, and passwords in the code low.
RAISED = {"B608": "high", "B105": "medium", "B106": "medium", "B107": "medium"}

_HOW_TO_MEND = {
    "B101": "raise an exception: python -O removes assertions",
    "B102": "do not exec(); call a function that you chose",
    "B104": "bind to 127.0.0.1, or take the address from the settings",
    "B105": "read it from a file or the environment, and change the password: it is in the history",
    "B106": "read it from a file or the environment, and change the password: it is in the history",
    "B107": "no default for a password; let the caller give it",
    "B108": "use tempfile; names in /tmp can be guessed",
    "B110": "catch what you expect by name, and log it",
    "B113": "give the request a timeout",
    "B301": "use JSON: pickle runs code of whoever wrote the data",
    "B303": "use hashlib.sha256",
    "B311": "use secrets where it must not be guessed",
    "B324": "use hashlib.sha256, or say usedforsecurity=False",
    "B501": "leave certificates checked; name a CA bundle instead",
    "B506": "use yaml.safe_load",
    "B602": "pass a list of arguments and no shell=True",
    "B605": "use subprocess with a list of arguments",
    "B608": "pass values as bound parameters (:name), never in the text of the statement",
}


@dataclass(frozen=True)
class Finding:
    """One thing that Bandit found; `severity` is ours, `rated` is Bandit's own."""

    file: str
    line: int
    rule: str
    name: str
    text: str
    severity: str
    rated: str
    more: str

    @property
    def mend(self) -> str:
        """How such a finding is put right, or where to read about it."""
        return _HOW_TO_MEND.get(self.rule, f"see {self.more}")


def read(report: dict[str, Any]) -> tuple[list[Finding], list[str]]:
    """Return the findings, most severe first, and a line for each reason not to believe that it was all read."""
    problems = [f"{error['filename']} was not checked: {error['reason']}" for error in report["errors"]]
    if not any(name != "_totals" for name in report["metrics"]):
        problems.append("not one file was checked")
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
    findings.sort(key=lambda found: (-SEVERITIES.index(found.severity), found.file, found.line))
    return findings, problems


def blocks(finding: Finding, threshold: str) -> bool:
    """Whether it is severe enough to stop a change."""
    return SEVERITIES.index(finding.severity) >= SEVERITIES.index(threshold)


def sarif(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings as a SARIF 2.1.0 log, which code hosts show beside the lines."""
    rules = {found.rule: found for found in findings}
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
                            {"id": rule, "name": found.name, "help": {"text": found.mend}, "helpUri": found.more}
                            for rule, found in sorted(rules.items())
                        ],
                    }
                },
                "results": [
                    {
                        "ruleId": found.rule,
                        "level": _LEVELS[found.severity],
                        "message": {"text": f"{found.text} {found.mend}"},
                        "locations": [
                            {
                                "physicalLocation": {
                                    "artifactLocation": {"uri": found.file},
                                    "region": {"startLine": found.line},
                                }
                            }
                        ],
                    }
                    for found in findings
                ],
            }
        ],
    }


def summary(findings: list[Finding], problems: list[str], threshold: str) -> str:
    """Return the result as Markdown."""
    blocking = sum(blocks(found, threshold) for found in findings)
    lines = [f"**Bandit**: {len(findings)} findings, {blocking} of them block ({threshold} and above)"]
    lines += [f"- {cell(problem)}" for problem in problems]
    if findings:
        rows = [
            [found.severity, f"{found.file}:{found.line}", found.rule, found.text, found.mend] for found in findings
        ]
        lines += ["", table(["severity", "where", "rule", "what", "how to mend"], rows)]
    return "\n".join(lines) + "\n"


def _line(found: Finding) -> str:
    rated = "" if found.rated == found.severity else f" (Bandit says {found.rated})"
    return f"{found.file}:{found.line}: {found.severity}{rated} {found.rule} {found.text}\n    mend: {found.mend}"


def main() -> int:
    """Check the report that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--threshold", choices=SEVERITIES, default="medium", help="what blocks (default medium)")
    parser.add_argument("--sarif", type=Path, help="write the findings there as SARIF")
    parser.add_argument("--summary", type=Path, help="write them there as Markdown")
    arguments = parser.parse_args()
    findings, problems = read(json.loads(arguments.report.read_text(encoding="utf-8")))
    if arguments.sarif:
        arguments.sarif.write_text(json.dumps(sarif(findings), indent=1) + "\n", encoding="utf-8")
    if arguments.summary:
        arguments.summary.write_text(summary(findings, problems, arguments.threshold), encoding="utf-8")
    for found in findings:
        print(_line(found))
    for problem in problems:
        print(f"bandit: FAILED: {problem}", file=sys.stderr)
    blocking = sum(blocks(found, arguments.threshold) for found in findings)
    if blocking:
        print(f"bandit: FAILED: {blocking} findings are {arguments.threshold} or above", file=sys.stderr)
    elif not problems:
        print(f"bandit: nothing that is {arguments.threshold} or above")
    return 1 if blocking or problems else 0


if __name__ == "__main__":
    sys.exit(main())
