"""Recorded reports of the scanners."""

from typing import Any


def trivy(*vulnerabilities: dict[str, Any]) -> dict[str, Any]:
    """Return a report of Trivy for an image with one package."""
    return {
        "SchemaVersion": 2,
        "ArtifactName": "bank/account-service:1",
        "Results": [
            {
                "Target": "bank/account-service:1 (debian 13)",
                "Class": "os-pkgs",
                "Type": "debian",
                "Packages": [{"Name": "openssl", "Version": "3.5.1-1"}],
                "Vulnerabilities": list(vulnerabilities),
            }
        ],
    }


OPENSSL = {
    "VulnerabilityID": "CVE-2026-0001",
    "PkgName": "openssl",
    "InstalledVersion": "3.5.1-1",
    "FixedVersion": "3.5.1-1+deb13u2",
    "Severity": "CRITICAL",
}
UNFIXED = {"VulnerabilityID": "CVE-2026-0002", "PkgName": "openssl", "InstalledVersion": "3.5.1-1", "Severity": "LOW"}


def pip_audit(*vulnerabilities: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return a report of pip-audit for jinja2 3.1.4."""
    return {
        "dependencies": [{"name": "jinja2", "version": "3.1.4", "vulns": list(vulnerabilities)} | others],
        "fixes": [],
    }


JINJA = {
    "id": "GHSA-q2x7-8rv6-6q7h",
    "fix_versions": ["4.0.0", "3.1.5", "2.11.9"],
    "aliases": ["CVE-2024-56326"],
    "description": "…",
}
SKIPPED = {"name": "jinja2", "skip_reason": "Dependency not found on PyPI and could not be audited: jinja2 (3.1.4)"}
