#!/usr/bin/env bash
# Run a load test against a running bank; exits 1 if a threshold is exceeded: run_load_test.sh [NAME=value …]
# Names, also as environment variables: BASE_URL, USERS, DURATION (defaults in locust.conf), P95_LIMIT_MS (250),
# ERROR_LIMIT_PERCENT (0.1). VAR_DIR/secrets holds the key that the bank trusts. Reports are written to reports/load/.
# SHAPE=surge: ten times the users for three minutes; fails only if a balance differs from the acknowledged requests
# or a rejection has no Retry-After. SURGE_SCALE multiplies its durations.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH

fail() {
    echo "load: FAILED: $*" >&2
    exit 1
}

for argument in "$@"; do
    case $argument in
        BASE_URL=* | USERS=* | DURATION=* | P95_LIMIT_MS=* | ERROR_LIMIT_PERCENT=* | SHAPE=* | SURGE_SCALE=*)
            declare "$argument"
            ;;
        *) fail "unknown argument $argument; use BASE_URL, USERS, DURATION, P95_LIMIT_MS, ERROR_LIMIT_PERCENT, SHAPE or SURGE_SCALE" ;;
    esac
done

base_url=${BASE_URL:-$(sed -n 's/^host = //p' load-tests/locust.conf)}
p95_limit=${P95_LIMIT_MS:-250}
error_limit=${ERROR_LIMIT_PERCENT:-0.1}
scale=${SURGE_SCALE:-1}
# Validate arguments before the run; "nan" would disable a limit.
for number in "$p95_limit" "$error_limit" "$scale"; do
    [[ $number =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "limits and SURGE_SCALE must be numbers, got $number"
done
[[ ! $scale =~ ^0*(\.0*)?$ ]] || fail "SURGE_SCALE must be greater than 0"
case ${SHAPE-} in '' | surge) ;; *) fail "unknown shape $SHAPE; use SHAPE=surge" ;; esac

# Check reachability only; any HTTP status is accepted.
python - "$base_url" <<'PY' || fail "no response from $base_url; start the bank with \`make up\` or \`make run\`, or set BASE_URL"
import sys
import httpx
try:
    httpx.get(f"{sys.argv[1]}/api/v1/accounts", timeout=5)
except (httpx.HTTPError, httpx.InvalidURL):
    sys.exit(1)
PY

report=reports/load/load
mkdir -p reports/load
# Remove results of earlier runs.
rm -f "$report".html "$report"_*.csv

if [ "${SHAPE-}" = surge ]; then
    rm -f reports/load/surge.json
    status=0
    PYTHONPATH=$PWD:$PWD/load-tests SURGE_SCALE=$scale locust --locustfile load-tests/locustfile.py,load-tests/surge.py \
        --headless --only-summary --exit-code-on-error 0 --stop-timeout 15 --host "$base_url" --users "${USERS:-10}" || status=$?
    [ -s reports/load/surge.json ] || fail "surge.py wrote no report"
    python load-tests/plot_surge.py reports/load/surge.svg "this run=reports/load/surge.json"
    echo "load: report in reports/load/surge.json, plot in reports/load/surge.svg"
    exit "$status"
fi

PYTHONPATH=$PWD:$PWD/load-tests locust --config load-tests/locust.conf --host "$base_url" ${USERS:+--users "$USERS"} \
    ${DURATION:+--run-time "$DURATION"} --csv "$report" --html "$report.html" || fail "locust failed"

echo "load: report in $report.html, statistics in ${report}_stats.csv"
python load-tests/check_report.py "$report" "$p95_limit" "$error_limit"
