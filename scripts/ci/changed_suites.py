"""Select the test suites that a change affects: `python -m scripts.ci.changed_suites SUITE …` prints their names.

The change is everything since the merge base with develop (or main, or CHANGED=REF), including uncommitted and new
files. `DEPENDS_ON` defines the dependencies of each suite; scripts/tests/test_changed_suites.py compares it with the
imports.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence

from shared.testing.paths import ROOT

# Paths that affect all suites.
EVERYWHERE = ("requirements", "pyproject.toml", "Makefile", ".ci/", "shared/", "scripts/")
_BANK = ("account-service/", "transaction-service/")
_SERVICES = (*_BANK, "autoscale-service/", "rollout-service/")
# Path prefixes that affect a suite, in addition to EVERYWHERE.
DEPENDS_ON: dict[str, tuple[str, ...]] = {
    "account-service": ("account-service/",),
    "transaction-service": ("transaction-service/",),
    "autoscale-service": ("autoscale-service/",),
    "rollout-service": ("rollout-service/", "ansible/roles/nginx_canary/"),
    "shared": ("docs/problems.md",),
    # Its tests read every file: documents, workflows, images, secrets.
    "scripts": ("",),
    "monitoring": ("monitoring/", *_SERVICES, "docker-compose.yml", ".env", "docker/", "docs/"),
    "simulation": ("integration-tests/", *_BANK),
    "local": (
        "integration-tests/",
        "load-tests/",
        "clients/",
        "ops-page/",
        "ansible/roles/nginx_canary/",
        "monitoring/",
        *("docs/", "README.md", "setup.md"),
        *_BANK,
    ),
    "compose": ("integration-tests/", *_SERVICES, "docker", ".env", "monitoring/", "ansible/", "docs/", "setup.md"),
    "ansible": ("integration-tests/", "ansible", *_SERVICES, "docker", ".env", "monitoring/"),
}
_OTHER_SUITES_OF_THAT_FOLDER = tuple(f"integration-tests/{name}/" for name in ("simulation", "local"))


def affected(paths: Iterable[str], suites: Sequence[str]) -> list[str]:
    """Return the suites that a change of these paths affects, in the given order."""
    changed = list(paths)
    return [suite for suite in suites if any(_affects(path, suite) for path in changed)]


def _affects(path: str, suite: str) -> bool:
    name = suite.partition("-")[0] if suite.startswith(("compose-", "ansible-")) else suite
    owner, _, rest = path.partition("/")
    if rest.startswith("tests/") and owner in DEPENDS_ON:
        # Tests affect only their own suite, and the tests of scripts, which read all files.
        return name in (owner, "scripts")
    if path.startswith(_OTHER_SUITES_OF_THAT_FOLDER):
        return path.startswith(f"integration-tests/{name}/") or name == "scripts"
    return path.startswith((*EVERYWHERE, *DEPENDS_ON[name]))


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # nosec B607
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed_paths(base: str) -> list[str] | None:
    """Return the paths that differ from the merge base with a branch; None if the branch does not exist."""
    branches = (base,) if base not in ("", "1") else ("origin/develop", "develop", "origin/main", "main")
    for branch in branches:
        if merge_base := _git("merge-base", "HEAD", branch):
            return _git("diff", "--name-only", merge_base[0]) + _git("ls-files", "--others", "--exclude-standard")
    return None


def main() -> int:
    """Print the affected suites; all of them if the change cannot be determined."""
    paths = changed_paths(os.environ.get("CHANGED", ""))
    if paths is None:
        print("changed-suites: no merge base with develop or main found; running every suite", file=sys.stderr)
    print(*(sys.argv[1:] if paths is None else affected(paths, sys.argv[1:])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
