#!/usr/bin/env bash
# Fail if the coverage is below a minimum: coverage_gate.sh DATA INCLUDE PERCENT [JSON]
# Prints the uncovered lines and branches of each file; the percentage covers lines and branches.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

export COVERAGE_FILE=$1
options=("--rcfile=$root/pyproject.toml" "--include=$2")
[ -z "${4-}" ] || "$root/.venv/bin/python" -m coverage json --quiet --fail-under=0 "${options[@]}" -o "$4"
"$root/.venv/bin/python" -m coverage report "${options[@]}" --skip-empty "--fail-under=$3"
