"""Check Locust's CSV report against thresholds: check_report.py PREFIX P95_LIMIT_MS ERROR_LIMIT_PERCENT

Prints the results, and one line for each threshold that is missed; exits 1 if there is any.
"""

import csv
import sys
from pathlib import Path

Rows = list[dict[str, str]]


def evaluate(stats: Rows, exceptions: Rows, p95_limit: float, error_limit: float) -> tuple[str, list[str]]:
    """Return a summary, and a message for each missed threshold; limits in milliseconds and percent."""
    total = next((row for row in stats if row["Name"] == "Aggregated"), None)
    if total is None or int(total["Request Count"]) == 0:
        return "0 requests", ["no requests were sent"]
    requests = int(total["Request Count"])
    # Exceptions in the user code are not in Failure Count, but count as errors.
    errors = int(total["Failure Count"]) + sum(int(row["Count"]) for row in exceptions)
    percent = 100 * errors / requests
    # Locust rounds percentiles to two significant digits from 100 ms on.
    p95 = float(total["95%"])
    missed = []
    if percent > error_limit:
        missed.append(f"error rate {percent:.2f} % exceeds {error_limit:g} %")
    if p95 > p95_limit:
        missed.append(f"p95 {p95:g} ms exceeds {p95_limit:g} ms")
    summary = (
        f"{requests} requests, {float(total['Requests/s']):.1f}/s; {errors} errors = {percent:.2f} % (at most"
        f" {error_limit:g} %); p50 {total['50%']} ms, p95 {p95:g} ms (at most {p95_limit:g} ms), p99 {total['99%']} ms"
    )
    return summary, missed


def _read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main() -> int:
    """Check the report with the given prefix."""
    prefix, p95_limit, error_limit = sys.argv[1:]
    stats, exceptions = (_read(Path(f"{prefix}_{name}.csv")) for name in ("stats", "exceptions"))
    summary, missed = evaluate(stats, exceptions, float(p95_limit), float(error_limit))
    print(f"load: {summary}")
    for message in missed:
        print(f"load: FAILED: {message}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
