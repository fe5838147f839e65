#!/usr/bin/env bash
# Run a drill and report its result in one line: drill.sh NAME [ARGUMENT …]; without NAME the drills are listed.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
# shellcheck source=scripts/lib/progress.sh
. scripts/lib/progress.sh

name=${1-}
drill=$(grep -ls '^def main' integration-tests/drills/*/"$name.py" || true)
if [ -z "$drill" ]; then
    echo "DRILL= one of:" "$(grep -l '^def main' integration-tests/drills/*/*.py | xargs -n 1 basename -s .py | sort | paste -sd ' ')" >&2
    exit 2
fi
shift
# Modules that a drill takes from one service: each service's package is called `app`.
case $name in
    autoscale_policy) service=autoscale-service ;;
    fuzz_ledger) service=account-service ;;
    verdict) service=rollout-service ;;
    *) service='' ;;
esac
scripts/local/bootstrap.sh dev
# Some simulate, or start processes only.
! grep -qiE 'docker|composed' "$drill" || scripts/local/ensure_docker.sh
say "drill $name: $(sed -n '1s/^"""//p' "$drill")"
module=${drill#integration-tests/}
module=${module%.py}
status=0
PYTHONPATH=$root:$root/integration-tests:$root/load-tests${service:+:$root/$service} .venv/bin/python -m "${module//\//.}" "$@" || status=$?
if [ "$status" -eq 0 ]; then
    finished "drill $name" "all bars met"
else
    failed "drill $name" "failed (exit code $status); the lines above say why"
fi
exit "$status"
