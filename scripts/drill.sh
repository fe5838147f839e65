#!/usr/bin/env bash
# Run a drill, and say in one line how it ended: drill.sh NAME [ARGUMENT …]; without NAME the drills are listed.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/progress.sh
. scripts/progress.sh

name=${1-}
drill=integration-tests/drills/$name.py
if ! grep -qs '^def main' "$drill"; then
    echo "DRILL= one of:" "$(grep -l '^def main' integration-tests/drills/*.py | xargs -n 1 basename -s .py | paste -sd ' ')" >&2
    exit 2
fi
shift
scripts/bootstrap.sh dev
# Some simulate, or start processes only.
! grep -qiE 'docker|composed' "$drill" || scripts/ensure_docker.sh
say "drill $name: $(sed -n '1s/^"""//p' "$drill")"
status=0
PYTHONPATH=. .venv/bin/python "$drill" "$@" || status=$?
if [ "$status" -eq 0 ]; then
    finished "drill $name" "all as promised"
else
    failed "drill $name" "not as promised (exit code $status); the lines above say what"
fi
exit "$status"
