"""Evaluate reports of Trivy and pip-audit: `python scripts/check_vulnerabilities.py --trivy FILE --pip-audit FILE …`

Lists each vulnerability with package, severity, installed and first patched version, and whether a bump fixes it.
Exits 1 if one blocks, or if a report is incomplete: skipped packages, a target without packages, a missing or outdated
advisory database. Any vulnerability of a Python dependency blocks, and of the rest of an image those that are high,
critical or not rated and have a patch; the others are listed.

--ignore FILE accepts vulnerabilities: a file in the format of .trivyignore.yaml, written as JSON. Each entry has `id`,
`statement` (why it is acceptable) and `expired_at` (a date at most 90 days ahead), optionally `purls` of packages.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    # Run as a script, Python searches modules only in the folder of this file.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.lib.markdown import cell, table  # noqa: E402  # pylint: disable=wrong-import-position

# In ascending order. pip-audit reports no severities: an advisory that Trivy does not rate either counts as high.
SEVERITIES = ("LOW", "MEDIUM", "UNKNOWN", "HIGH", "CRITICAL")
BLOCKING = ("UNKNOWN", "HIGH", "CRITICAL")
# Longest time until the acceptance of a vulnerability is due for review.
MAX_ACCEPTANCE = timedelta(days=90)
_STAGES = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}
_PEP_440 = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>alpha|a|beta|b|preview|pre|c|rc)[-_.]?(?P<pre_number>\d+)?)?"
    r"(?P<post>-(?P<post_implicit>\d+)|[-_.]?(?:post|rev|r)[-_.]?(?P<post_number>\d+)?)?"
    r"(?P<dev>[-_.]?dev[-_.]?(?P<dev_number>\d+)?)?"
    r"(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?"
)
MARKER = "<!-- distributed-banking-ops:cve-scan -->"


@dataclass(frozen=True)
class Vulnerability:
    """An advisory for an installed package; `patched` is the first fixed version, '' if there is none."""

    id: str
    package: str
    severity: str
    installed: str
    patched: str
    where: str
    kind: str
    # All ids of the advisory, including `id`.
    aliases: frozenset[str]
    # Why it is accepted, and until when; '' if it is not.
    accepted: str = ""

    @property
    def blocks(self) -> bool:
        """Whether it fails the scan."""
        if self.accepted:
            return False
        return self.kind == "python" or (self.severity in BLOCKING and bool(self.patched))

    @property
    def status(self) -> str:
        """What it means for the scan."""
        return self.accepted or ("blocking" if self.blocks else "listed")

    @property
    def bump(self) -> str:
        """Whether a version bump fixes it, and how."""
        if not self.patched:
            return "no patch yet"
        if self.kind == "python":
            return f"yes: make lock with {self.package}>={self.patched}"
        return f"yes: rebuild the base image with {self.package} {self.patched}"


def canonicalize_name(name: str) -> str:
    """Return the normalized name of a Python package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(text: str) -> tuple[Any, ...] | None:
    """Return a key that orders Python versions as PEP 440 does, None for other versions. The local part is ignored.

    The library `packaging` does the same; this script must run without any library.
    """
    match = _PEP_440.fullmatch(text.strip().lower())
    if not match:
        return None
    release = [int(part) for part in match["release"].split(".")]
    while release and release[-1] == 0:
        release.pop()
    pre = (match["pre"], int(match["pre_number"] or 0)) if match["pre"] else None
    post = int(match["post_number"] or match["post_implicit"] or 0) if match["post"] else -1
    development = int(match["dev_number"] or 0) if match["dev"] else None
    # 1.0.dev1 < 1.0a1 < 1.0 < 1.0.post1, and each development version before the version itself.
    if pre:
        stage = (_STAGES[pre[0]], pre[1])
    else:
        stage = (-1, 0) if development is not None and post < 0 else (3, 0)
    return int(match["epoch"] or 0), release, stage, post, (0, development) if development is not None else (1, 0)


def first_patched(installed: str, fixes: list[str]) -> str:
    """Return the smallest version that is newer than the installed one, '' if there is none.

    Advisories list one version per maintained branch. Debian versions are not comparable as Python versions, but
    Debian's advisories list only one.
    """
    current = _version(installed)
    parsed = [(version, fix) for fix in fixes if (version := _version(fix))]
    if current is None or len(fixes) < 2:
        return fixes[0] if fixes else ""
    return min(((version, fix) for version, fix in parsed if version > current), default=(None, ""))[1]


def read_pip_audit(report: dict[str, Any], required: set[str]) -> tuple[list[Vulnerability], list[str]]:
    """Return the vulnerabilities that pip-audit reports, and a line for each required package that it skipped."""
    findings: list[Vulnerability] = []
    problems = []
    seen = set()
    for package in report["dependencies"]:
        name = canonicalize_name(package["name"])
        if "skip_reason" in package:
            problems.append(f"{name} was skipped by pip-audit: {package['skip_reason']}")
            seen.add(name)
            continue
        seen.add(name)
        for advisory in package["vulns"]:
            ids = [advisory["id"], *advisory["aliases"]]
            findings.append(
                Vulnerability(
                    id=next((name for name in ids if name.startswith("CVE-")), ids[0]),
                    package=name,
                    severity="UNKNOWN",
                    installed=package["version"],
                    patched=first_patched(package["version"], advisory["fix_versions"]),
                    where="requirements",
                    kind="python",
                    aliases=frozenset(ids),
                )
            )
    problems += [f"{name} is required, but missing from pip-audit's report" for name in sorted(required - seen)]
    if not seen:
        problems.append("pip-audit's report contains no packages")
    return findings, problems


def read_trivy(report: dict[str, Any]) -> tuple[list[Vulnerability], list[str]]:
    """Return the vulnerabilities that Trivy reports, and a line if it found no packages."""
    target = report.get("ArtifactName", "an unnamed target")
    results = report.get("Results") or []
    if not any(result.get("Packages") for result in results):
        return [], [f"Trivy found no packages in {target} (run it with --list-all-pkgs)"]
    return [
        Vulnerability(
            id=item["VulnerabilityID"],
            package=item["PkgName"],
            severity=item.get("Severity", "UNKNOWN"),
            installed=item["InstalledVersion"],
            patched=first_patched(item["InstalledVersion"], re.split(r",\s*", item.get("FixedVersion") or "")),
            where=target,
            kind="python" if result.get("Type") in ("pip", "python-pkg") else "system",
            aliases=frozenset([item["VulnerabilityID"], *item.get("VendorIDs", [])]),
        )
        for result in results
        for item in result.get("Vulnerabilities") or []
    ], []


@dataclass(frozen=True)
class Acceptance:
    """An entry of the ignore file; without packages it applies to all."""

    id: str
    packages: frozenset[str]
    statement: str
    until: date

    def covers(self, finding: Vulnerability) -> bool:
        """Return whether it accepts the vulnerability."""
        return self.id in finding.aliases and (not self.packages or finding.package in self.packages)


def read_ignore_file(document: Any, today: date) -> tuple[list[Acceptance], list[str]]:
    """Return the valid entries of an ignore file, and a line for each invalid one. Expired entries accept nothing."""
    accepted, problems = [], []
    for entry in document["vulnerabilities"]:
        try:
            acceptance = Acceptance(
                id=str(entry["id"]),
                packages=frozenset(purl.partition("@")[0].rpartition("/")[2] for purl in entry.get("purls", [])),
                statement=str(entry["statement"]).strip(),
                until=date.fromisoformat(str(entry["expired_at"])),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            problems.append(f"ignore file: {entry!r:.200} is not an entry with id, statement and expired_at: {error}")
            continue
        if not acceptance.statement:
            problems.append(f"ignore file: {acceptance.id} has no statement that justifies it")
        elif acceptance.until - today > MAX_ACCEPTANCE:
            limit = f"more than {MAX_ACCEPTANCE.days} days ahead"
            problems.append(f"ignore file: {acceptance.id} expires on {acceptance.until}, {limit}")
        elif acceptance.until >= today:
            accepted.append(acceptance)
    return accepted, problems


def accept(findings: list[Vulnerability], acceptances: list[Acceptance]) -> list[Vulnerability]:
    """Return the vulnerabilities, with the acceptance of those that an entry covers."""
    return [
        replace(
            finding,
            accepted=next((f"accepted until {a.until}: {a.statement}" for a in acceptances if a.covers(finding)), ""),
        )
        for finding in findings
    ]


def check_database(version: dict[str, Any], now: datetime, limit: timedelta) -> list[str]:
    """Return a line if Trivy's advisory database (`trivy version --format json`) is missing or older than the limit."""
    database = version.get("VulnerabilityDB")
    if not database:
        return ["Trivy has no advisory database: its source is unreachable"]
    # Not all supported Python versions parse nanoseconds.
    updated = datetime.fromisoformat(re.sub(r"\.\d+", "", database["UpdatedAt"]).replace("Z", "+00:00"))
    if now - updated > limit:
        hours = limit.total_seconds() / 3600
        return [f"Trivy's advisory database dates from {updated:%Y-%m-%d %H:%M} UTC, older than {hours:g} h"]
    return []


def merge(findings: list[Vulnerability]) -> list[Vulnerability]:
    """Return each advisory once per package, version and location, most severe first, with any scanner's severity."""
    known = [finding for finding in findings if finding.severity != "UNKNOWN"]
    rated = {(alias, finding.package): finding.severity for finding in known for alias in finding.aliases}
    merged: dict[tuple[str, str, str, str], Vulnerability] = {}
    for finding in findings:
        ratings = [rated[alias, finding.package] for alias in finding.aliases if (alias, finding.package) in rated]
        severity = max(ratings, key=SEVERITIES.index, default=finding.severity)
        merged[finding.id, finding.package, finding.installed, finding.where] = replace(finding, severity=severity)
    by_package = sorted(merged.values(), key=lambda finding: (finding.package, finding.id, finding.where))
    return sorted(by_package, key=lambda finding: -SEVERITIES.index(finding.severity))


def required_names(requirements: list[Path]) -> set[str]:
    """Return the names of the packages that the pinned requirements install on all platforms."""
    return {
        canonicalize_name(match[1])
        for path in requirements
        for match in re.finditer(
            r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==[^ ;]+ \\?$", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }


def body(findings: list[Vulnerability], problems: list[str]) -> str:
    """Return the text of the GitHub issue as Markdown."""
    blocking = sum(finding.blocks for finding in findings)
    lines = [
        MARKER,
        f"**{len(findings)} known vulnerabilities, {blocking} of them blocking**: all of Python dependencies; of the"
        " others, those that are high, critical or not rated and have a patch.",
    ]
    if problems:
        lines += ["", "**The scan is incomplete**, so vulnerabilities may be missing:", ""]
        # If an advisory source is unreachable, all packages are skipped: the first lines are sufficient.
        lines += [f"- {cell(problem)}" for problem in problems[:20]]
        lines += [f"- and {len(problems) - 20} more"] if len(problems) > 20 else []
    if findings:
        columns = ["status", "severity", "advisory", "package", "installed", "first patched", "bump", "location"]
        names = ("status", "severity", "id", "package", "installed", "patched", "bump", "where")
        blocking_first = sorted(findings, key=lambda finding: not finding.blocks)[:300]
        rows = [[getattr(finding, name) or "none" for name in names] for finding in blocking_first]
        lines += ["", table(columns, rows)]
    return "\n".join(lines) + "\n"


def _acceptances(path: Path | None) -> tuple[list[Acceptance], list[str]]:
    if path is None:
        return [], []
    try:
        return read_ignore_file(json.loads(path.read_text(encoding="utf-8")), datetime.now(UTC).date())
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], [f"{path} is not an ignore file in JSON: {type(error).__name__} {error}"]


def _collect(arguments: argparse.Namespace) -> tuple[list[Vulnerability], list[str]]:
    """Read all reports; a missing or invalid one is a problem as well."""
    findings: list[Vulnerability] = []
    problems: list[str] = []
    required = required_names(arguments.requirements)
    for path, kind in [
        *((path, "trivy") for path in arguments.trivy),
        *((path, "pip") for path in arguments.pip_audit),
    ]:
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            more, issues = read_trivy(report) if kind == "trivy" else read_pip_audit(report, required)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            more, issues = [], [f"{path} is not a valid report: {type(error).__name__} {error}"]
        findings += more
        problems += issues
    if arguments.trivy:
        try:
            version = json.loads(arguments.trivy_version.read_text(encoding="utf-8"))
            problems += check_database(version, datetime.now(UTC), timedelta(hours=arguments.database_hours))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"the age of Trivy's advisory database is unknown: {type(error).__name__} {error}")
    if not arguments.trivy and not arguments.pip_audit:
        problems.append("no reports given")
    acceptances, invalid = _acceptances(arguments.ignore)
    return accept(merge(findings), acceptances), problems + invalid


def main() -> int:
    """Check the reports that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--trivy", type=Path, action="append", default=[], help="JSON report of trivy (--list-all-pkgs)"
    )
    parser.add_argument("--trivy-version", type=Path, help="output of trivy version --format json")
    parser.add_argument("--database-hours", type=float, default=48, help="maximum age of its database (default 48)")
    parser.add_argument("--pip-audit", type=Path, action="append", default=[], help="JSON report of pip-audit")
    parser.add_argument("--requirements", type=Path, action="append", default=[], help="requirements it must cover")
    parser.add_argument("--ignore", type=Path, help="accepted vulnerabilities")
    parser.add_argument("--body", type=Path, help="file for the text of the GitHub issue")
    arguments = parser.parse_args()
    findings, problems = _collect(arguments)
    if arguments.body:
        arguments.body.write_text(body(findings, problems), encoding="utf-8")
    for finding in findings:
        package = f"{finding.package} {finding.installed} in {finding.where}"
        print(f"{finding.severity:8} {finding.id} {package}; patched in", end=" ")
        print(f"{finding.patched or 'nothing yet'}; bump: {finding.bump}; {finding.status}")
    for problem in problems:
        print(f"vulnerabilities: FAILED: {problem}", file=sys.stderr)
    blocking = sum(finding.blocks for finding in findings)
    if blocking:
        print(f"vulnerabilities: FAILED: {blocking} of {len(findings)} are blocking", file=sys.stderr)
    if not blocking and not problems:
        print(f"vulnerabilities: {len(findings)} found, none blocking")
    return 1 if blocking or problems else 0


if __name__ == "__main__":
    sys.exit(main())
