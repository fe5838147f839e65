#!/usr/bin/env bash
# Hold measured coverage against a bar: coverage_gate.sh DATA INCLUDE PERCENT [JSON]
# Prints each file with its lines and branches that no test took; lines and branches count alike.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

export COVERAGE_FILE=$1
options=("--rcfile=$root/pyproject.toml" "--include=$2")
[ -z "${4-}" ] || "$root/.venv/bin/python" -m coverage json --quiet --fail-under=0 "${options[@]}" -o "$4"
"$root/.venv/bin/python" -m coverage report "${options[@]}" --skip-empty "--fail-under=$3"
