#!/usr/bin/env bash
# Scan Python code with Bandit and fail on findings of the threshold or above: run_bandit.sh [PATH …]
# Default paths: the services, shared, scripts, monitoring and clients. THRESHOLD=low|medium|high (default medium).
# Reports are written to REPORTS (default reports/security): bandit.json, bandit.sarif, bandit.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
reports=${REPORTS:-reports/security}

mkdir -p "$reports"
rm -f "$reports"/bandit.*
[ $# -gt 0 ] || set -- ./*-service/app shared scripts monitoring clients
# Bandit exits 1 for findings, which check_bandit_results.py evaluates, and for errors: then there is no report.
bandit --quiet --recursive --configfile pyproject.toml --format json --output "$reports/bandit.json" "$@" || true
[ -s "$reports/bandit.json" ] || {
    echo "bandit: FAILED: no report written, see the output above" >&2
    exit 1
}
python scripts/check_bandit_results.py "$reports/bandit.json" --threshold "${THRESHOLD:-medium}" \
    --sarif "$reports/bandit.sarif" --summary "$reports/bandit.md"
