"""Print an image's SLSA v1 provenance predicate: `python3 -m scripts.release.provenance SERVICE VERSION COMMIT`.

REPOSITORY is the URL of the source repository, GITHUB_RUN_ID the id of the run on GitHub. COMMIT is the commit that
scripts/release/release.sh built from, or with REHEARSAL=1 the commit that was checked out.
"""

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any


def predicate(
    service: str, version: str, repository: str, commit: str, run: str, when: datetime, *, rehearsal: bool = False
) -> dict[str, Any]:
    """Return the predicate (https://slsa.dev/spec/v1.0/provenance).

    A rehearsal release is marked, because its images may contain more than the files of the commit.
    """
    return {
        "buildDefinition": {
            "buildType": f"{repository}/blob/main/docs/ci.md#build",
            "externalParameters": {"service": service, "version": version, "rehearsal": rehearsal},
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
    """Print the provenance for the service, version and commit on the command line."""
    service, version, commit = sys.argv[1:]
    repository = os.environ.get("REPOSITORY", "")
    if not repository:
        print("provenance: FAILED: set REPOSITORY=https://… to the source repository", file=sys.stderr)
        return 1
    run = os.environ.get("GITHUB_RUN_ID", "")
    rehearsal = os.environ.get("REHEARSAL") == "1"
    now = datetime.now(UTC)
    statement = predicate(service, version, repository.removesuffix(".git"), commit, run, now, rehearsal=rehearsal)
    print(json.dumps(statement, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
