#!/usr/bin/env bash
# Put load on a running bank and fail if it makes errors or is slow: run_load_test.sh [NAME=value …]
# Names, also as environment: BASE_URL, USERS, DURATION (locust.conf has the defaults), P95_LIMIT_MS (250),
# ERROR_LIMIT_PERCENT (0.1); VAR_DIR/secrets holds the key that the bank trusts. The report goes to reports/load/.
# SHAPE=surge: ten times the users for three minutes; fails only if money is lost or a refusal has no Retry-After.
# SURGE_SCALE multiplies its durations.
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
# Said now and not after a minute; and no figure is more than "nan".
for number in "$p95_limit" "$error_limit" "$scale"; do
    [[ $number =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "a limit or scale is a number, not $number"
done
[[ ! $scale =~ ^0*(\.0*)?$ ]] || fail "SURGE_SCALE has to be above 0"
case ${SHAPE-} in '' | surge) ;; *) fail "SHAPE=$SHAPE is unknown; use surge" ;; esac

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

if [ "${SHAPE-}" = surge ]; then
    rm -f reports/load/surge.json
    status=0
    PYTHONPATH=$PWD:$PWD/load-tests SURGE_SCALE=$scale locust --locustfile load-tests/locustfile.py,load-tests/surge.py \
        --headless --only-summary --exit-code-on-error 0 --stop-timeout 15 --host "$base_url" --users "${USERS:-10}" || status=$?
    [ -s reports/load/surge.json ] || fail "the surge wrote no report"
    python load-tests/surge_picture.py reports/load/surge.svg "this run=reports/load/surge.json"
    echo "load: figures in reports/load/surge.json, picture in reports/load/surge.svg"
    exit "$status"
fi

PYTHONPATH=$PWD:$PWD/load-tests locust --config load-tests/locust.conf --host "$base_url" ${USERS:+--users "$USERS"} \
    ${DURATION:+--run-time "$DURATION"} --csv "$report" --html "$report.html" || fail "locust could not run"

echo "load: the report is $report.html, figures in ${report}_stats.csv"
python load-tests/check_report.py "$report" "$p95_limit" "$error_limit"
