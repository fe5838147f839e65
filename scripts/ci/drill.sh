#!/usr/bin/env bash
# Run a drill and print its result as the last line: drill.sh NAME [ARGUMENT …]; without NAME it lists the drills.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
# shellcheck source=scripts/lib/progress.sh
. scripts/lib/progress.sh

name=${1-}
drill=$(grep -ls '^def main' integration-tests/drills/*/"$name.py" || true)
if [ -z "$drill" ]; then
    names="DRILL= one of: $(grep -l '^def main' integration-tests/drills/*/*.py | xargs -n 1 basename -s .py | sort | paste -sd ' ')"
    if [ -n "$name" ]; then
        echo "$names" >&2
        exit 2
    fi
    echo "$names"
    exit
fi
shift
# Service whose package `app` the drill imports; every service has one of that name.
case $name in
    autoscale_policy) service=autoscale-service ;;
    fuzz_ledger) service=account-service ;;
    verdict) service=rollout-service ;;
    *) service='' ;;
esac
scripts/local/bootstrap.sh dev
# Drills that only simulate or start processes need no Docker.
! grep -qiE 'docker|composed' "$drill" || scripts/local/ensure_docker.sh
info "drill $name: $(sed -n '1s/^"""//p' "$drill")"
module=${drill#integration-tests/}
module=${module%.py}
status=0
PYTHONPATH=$root:$root/integration-tests:$root/load-tests${service:+:$root/$service} .venv/bin/python -m "${module//\//.}" "$@" || status=$?
if [ "$status" -eq 0 ]; then
    finished "drill $name" "passed"
else
    failed "drill $name" "failed (exit code $status), see the output above"
fi
exit "$status"
