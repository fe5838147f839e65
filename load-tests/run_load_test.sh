#!/usr/bin/env bash
# Put load on a running bank and fail if it makes errors or is slow: run_load_test.sh [NAME=value …]
# Names, also as environment: BASE_URL, USERS, DURATION (locust.conf has the defaults), P95_LIMIT_MS (250),
# ERROR_LIMIT_PERCENT (0.1); VAR_DIR/secrets holds the key that the bank trusts. The report goes to reports/load/.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH

fail() {
    echo "load: FAILED: $*" >&2
    exit 1
}

for argument in "$@"; do
    case $argument in
        BASE_URL=* | USERS=* | DURATION=* | P95_LIMIT_MS=* | ERROR_LIMIT_PERCENT=*) declare "$argument" ;;
        *) fail "what is $argument? Give BASE_URL=, USERS=, DURATION=, P95_LIMIT_MS= or ERROR_LIMIT_PERCENT=" ;;
    esac
done

base_url=${BASE_URL:-$(sed -n 's/^host = //p' load-tests/locust.conf)}
p95_limit=${P95_LIMIT_MS:-250}
error_limit=${ERROR_LIMIT_PERCENT:-0.1}
# Said now and not after a minute; and no figure is more than "nan".
for limit in "$p95_limit" "$error_limit"; do
    [[ $limit =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "a limit is a number, not $limit"
done

# Any answer will do: whether it is a good one is what the run finds out.
python - "$base_url" <<'PY' || fail "nothing answers at $base_url; start the bank with \`make up\` or \`make run\`, or set BASE_URL"
import sys
import httpx
try:
    httpx.get(f"{sys.argv[1]}/api/v1/accounts", timeout=5)
except (httpx.HTTPError, httpx.InvalidURL):
    sys.exit(1)
PY

report=reports/load/load
mkdir -p reports/load
# What an earlier run left is never taken for this one's.
rm -f "$report".html "$report"_*.csv

PYTHONPATH=$PWD locust --config load-tests/locust.conf --host "$base_url" ${USERS:+--users "$USERS"} \
    ${DURATION:+--run-time "$DURATION"} --csv "$report" --html "$report.html" || fail "locust could not run"

echo "load: the report is $report.html, figures in ${report}_stats.csv"
python load-tests/check_report.py "$report" "$p95_limit" "$error_limit"
