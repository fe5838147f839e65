#!/usr/bin/env bash
# Look for insecure Python with Bandit and hold what it finds against the threshold: run_bandit.sh [PATH …]
# Default: every service, shared, scripts and monitoring. THRESHOLD=low|medium|high is what blocks (medium); the reports go to
# REPORTS (reports/security): bandit.json, bandit.sarif, bandit.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
reports=${REPORTS:-reports/security}

mkdir -p "$reports"
rm -f "$reports"/bandit.*
[ $# -gt 0 ] || set -- ./*-service/app shared scripts monitoring
# It exits 1 when it finds something, which is not for it to judge here, and when it fails: then there is no report.
bandit --quiet --recursive --configfile pyproject.toml --format json --output "$reports/bandit.json" "$@" || true
[ -s "$reports/bandit.json" ] || {
    echo "bandit: FAILED: it wrote no report; the lines above say why" >&2
    exit 1
}
python scripts/check_bandit_results.py "$reports/bandit.json" --threshold "${THRESHOLD:-medium}" \
    --sarif "$reports/bandit.sarif" --summary "$reports/bandit.md"
