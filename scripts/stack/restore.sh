#!/usr/bin/env bash
# Restore the databases to a point in time (TO=2026-01-31T12:00:00Z) or to the end of the archive; REPLACE=1 overwrites
# existing databases. The stack is stopped meanwhile. The broker starts empty and services publish their whole outboxes
# again, so that no events remain of transactions that are no longer in the ledger.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh
timeout_seconds=300
started=$SECONDS

# run_once SERVICE COMMAND …: run a command with the volumes of a service.
run_once() {
    local service=$1
    shift
    docker compose run --rm --no-deps -T --env "REPLACE=${REPLACE-}" --entrypoint "$1" "$service" "${@:2}"
}

if [ -n "${TO-}" ]; then
    TO=$(date -u -d "$TO" +%Y-%m-%dT%H:%M:%S.%NZ) || exit 1
fi
# Check everything before the stack is stopped.
run_once postgres /setup/restore.sh check "${TO-}"
echo "restore: stopping services and databases"
# The autoscaler first, so that it does not replace stopped replicas; PostgreSQL last: it archives its logs on shutdown.
docker compose stop autoscale-service 2>/dev/null
docker compose --profile canary --profile previous stop \
    {account,transaction}-service{,-canary,-baseline,-previous} postgres-exporter nats postgres 2>/dev/null
run_once postgres /setup/restore.sh restore "${TO-}"
run_once nats sh -c 'rm -rf /data/jetstream'
echo "restore: starting the stack"
docker compose --progress quiet up --detach --no-build
deadline=$((SECONDS + timeout_seconds))
while docker compose ps --format '{{.Service}} {{.Health}}' account-service transaction-service nginx | grep -v ' healthy$' >/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || {
        echo "restore: stack not healthy after $timeout_seconds s; check make ps and make logs" >&2
        exit 1
    }
    sleep 0.5
done
echo "restore: done after $((SECONDS - started)) s"
docker compose exec -T account-service python -m app.verify
