"""Select the test suites that a change can break: `python -m scripts.ci.changed_suites SUITE …` prints those of them.

The change is everything since the merge base with develop (or main, or CHANGED=some-ref), uncommitted and new files
included. `DEPENDS_ON` is the one place that says what a suite depends on; scripts/tests/test_changed_suites.py holds it
against the imports.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence

from shared.testing.paths import ROOT

# Whatever these say concerns every suite.
EVERYWHERE = ("requirements", "pyproject.toml", "Makefile", ".ci/", "shared/", "scripts/")
_BANK = ("account-service/", "transaction-service/")
_SERVICES = (*_BANK, "autoscale-service/", "rollout-service/")
# Paths by their beginning, beside EVERYWHERE.
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
    """Return those of the suites that a change of these paths can break, in their order."""
    changed = list(paths)
    return [suite for suite in suites if any(_concerns(path, suite) for path in changed)]


def _concerns(path: str, suite: str) -> bool:
    name = suite.partition("-")[0] if suite.startswith(("compose-", "ansible-")) else suite
    owner, _, rest = path.partition("/")
    if rest.startswith("tests/") and owner in DEPENDS_ON:
        # Nothing imports another suite's tests but the one that reads every file.
        return name in (owner, "scripts")
    if path.startswith(_OTHER_SUITES_OF_THAT_FOLDER):
        return path.startswith(f"integration-tests/{name}/") or name == "scripts"
    return path.startswith((*EVERYWHERE, *DEPENDS_ON[name]))


def _git(*words: str) -> list[str]:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # nosec B607
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed_paths(base: str) -> list[str] | None:
    """Return what differs from the merge base with a branch; None when this is no clone that has the branch."""
    branches = (base,) if base not in ("", "1") else ("origin/develop", "develop", "origin/main", "main")
    for branch in branches:
        if found := _git("merge-base", "HEAD", branch):
            return _git("diff", "--name-only", found[0]) + _git("ls-files", "--others", "--exclude-standard")
    return None


def main() -> int:
    """Print the selected suites; all of them where nothing is known of the change."""
    paths = changed_paths(os.environ.get("CHANGED", ""))
    if paths is None:
        print("changed-suites: no merge base with develop or main found; running every suite", file=sys.stderr)
    print(*(sys.argv[1:] if paths is None else affected(paths, sys.argv[1:])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
