"""Hold Locust's CSV report against the thresholds: check_report.py PREFIX P95_LIMIT_MS ERROR_LIMIT_PERCENT

Prints the figures, and one line for each threshold that is missed; the exit code is 1 if there is any.
"""

import csv
import sys
from pathlib import Path

Rows = list[dict[str, str]]


def missed(stats: Rows, exceptions: Rows, p95_limit: float, error_limit: float) -> tuple[str, list[str]]:
    """Return the figures as a line, and a line for each threshold that they miss."""
    total = next((row for row in stats if row["Name"] == "Aggregated"), None)
    if total is None or int(total["Request Count"]) == 0:
        return "0 requests", ["no requests were made"]
    requests = int(total["Request Count"])
    # An exception of the customers themselves is no failed request, but nothing that worked either.
    errors = int(total["Failure Count"]) + sum(int(row["Count"]) for row in exceptions)
    percent = 100 * errors / requests
    # Locust rounds it to two digits from 100 ms on.
    p95 = float(total["95%"])
    lines = []
    if percent > error_limit:
        lines.append(f"{percent:.2f} % errors are more than {error_limit:g} %")
    if p95 > p95_limit:
        lines.append(f"p95 of {p95:g} ms is over {p95_limit:g} ms")
    figures = (
        f"{requests} requests, {float(total['Requests/s']):.1f}/s; {errors} errors = {percent:.2f} % (at most"
        f" {error_limit:g} %); p50 {total['50%']} ms, p95 {p95:g} ms (at most {p95_limit:g} ms), p99 {total['99%']} ms"
    )
    return figures, lines


def _read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main() -> int:
    """Check the report that the command line names."""
    prefix, p95_limit, error_limit = sys.argv[1:]
    stats, exceptions = (_read(Path(f"{prefix}_{name}.csv")) for name in ("stats", "exceptions"))
    figures, lines = missed(stats, exceptions, float(p95_limit), float(error_limit))
    print(f"load: {figures}")
    for line in lines:
        print(f"load: FAILED: {line}", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
