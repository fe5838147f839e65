"""Say where an image comes from: `python3 -m scripts.provenance SERVICE VERSION` prints a SLSA v1 provenance predicate.

Facts are git's own and those of the run on GitHub: REPOSITORY (its address), GITHUB_RUN_ID. A tree
with uncommitted changes is refused, because no commit tells what was built.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()  # nosec B607


def predicate(service: str, version: str, repository: str, commit: str, run: str, when: datetime) -> dict[str, Any]:
    """Return the predicate; https://slsa.dev/spec/v1.0/provenance explains the fields."""
    return {
        "buildDefinition": {
            "buildType": f"{repository}/blob/main/docs/ci.md#build",
            "externalParameters": {"service": service, "version": version},
            "internalParameters": {"dockerfile": f"{service}/Dockerfile"},
            "resolvedDependencies": [{"uri": f"git+{repository}", "digest": {"gitCommit": commit}}],
        },
        "runDetails": {
            "builder": {"id": f"{repository}/.github/workflows/deploy.yml" if run else "local"},
            "metadata": {
                "invocationId": f"{repository}/actions/runs/{run}" if run else "local",
                "finishedOn": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
        },
    }


def main() -> int:
    """Print the provenance of the service and version that the command line names."""
    service, version = sys.argv[1:]
    if changed := _git("status", "--porcelain", "--untracked-files=no"):
        print(f"provenance: FAILED: there are changes that no commit has:\n{changed}", file=sys.stderr)
        return 1
    repository = os.environ.get("REPOSITORY", "")
    if not repository:
        print("provenance: FAILED: say which repository it is built from: REPOSITORY=https://…", file=sys.stderr)
        return 1
    run = os.environ.get("GITHUB_RUN_ID", "")
    statement = predicate(
        service, version, repository.removesuffix(".git"), _git("rev-parse", "HEAD"), run, datetime.now(UTC)
    )
    print(json.dumps(statement, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
