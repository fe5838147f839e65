#!/usr/bin/env bash
# Rehearse on a composed stack: drill.sh NAME [arguments …], NAME a module of integration-tests/drills.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:-}
if [[ ! $name =~ ^[a-z_]+$ || ! -f integration-tests/drills/$name.py ]]; then
    echo "drill: say DRILL=… , one of: $(cd integration-tests/drills && printf '%s\n' [!_]*.py | sed -n 's/\.py$//p' | paste -sd ' ')" >&2
    exit 2
fi
shift
export PYTHONPATH=$PWD:$PWD/integration-tests:$PWD/integration-tests/docker
exec "${PYTHON:-.venv/bin/python}" -m "drills.$name" "$@"
