"""The required status check of pull requests: `NEEDS=… python3 -m scripts.ci.gate`.

NEEDS is GitHub's `needs` context as JSON. Exits 1 unless all jobs succeeded (cancelled or skipped is a failure).
"""

import json
import os
import sys


def unsuccessful(needs: dict[str, dict[str, object]]) -> list[str]:
    """Return a line for each job that did not succeed."""
    return [f"{name}: {need['result']}" for name, need in sorted(needs.items()) if need["result"] != "success"]


def main() -> int:
    """Check the results of the jobs in NEEDS."""
    needs = json.loads(os.environ["NEEDS"])
    problems = unsuccessful(needs) if needs else ["no job ran"]
    for line in problems:
        print(f"gate: FAILED: {line}", file=sys.stderr)
    if not problems:
        print(f"gate: all {len(needs)} jobs succeeded")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
