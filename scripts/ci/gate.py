"""The one result that a pull request is held by: `NEEDS=… python3 -m scripts.ci.gate`.

NEEDS is GitHub's `needs` as JSON. Exits 1 unless every job succeeded: one that was cancelled or left out is not green.
"""

import json
import os
import sys


def verdict(needs: dict[str, dict[str, object]]) -> list[str]:
    """Return a line for each job that did not succeed."""
    return [f"{name}: {need['result']}" for name, need in sorted(needs.items()) if need["result"] != "success"]


def main() -> int:
    """Judge the jobs that NEEDS tells of."""
    needs = json.loads(os.environ["NEEDS"])
    bad = verdict(needs) if needs else ["no job ran"]
    for line in bad:
        print(f"gate: FAILED: {line}", file=sys.stderr)
    if not bad:
        print(f"gate: all {len(needs)} jobs are green")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
