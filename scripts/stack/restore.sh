#!/usr/bin/env bash
# Bring the databases back to a moment (TO=2026-01-31T12:00:00Z), or to the last one in the archive; REPLACE=1 gives up a
# database that is still there. The stack stops for it. The event bus begins anew: services publish every event of their
# outboxes again, so nothing of what is no longer in the ledger is left in it.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh
patience=300
began=$SECONDS

# once SERVICE COMMAND …: run a command on a service's volumes.
once() {
    local service=$1
    shift
    docker compose run --rm --no-deps -T --env "REPLACE=${REPLACE-}" --entrypoint "$1" "$service" "${@:2}"
}

if [ -n "${TO-}" ]; then
    TO=$(date -u -d "$TO" +%Y-%m-%dT%H:%M:%S.%NZ) || exit 1
fi
# What is refused is refused before anything stops.
once postgres /setup/restore.sh check "${TO-}"
echo "restore: stopping what uses the databases"
# The autoscaler first: it must not mend what is stopped. PostgreSQL, last, archives all it has when it stops.
docker compose stop autoscale-service 2>/dev/null
docker compose --profile canary --profile previous stop \
    {account,transaction}-service{,-canary,-previous} postgres-exporter nats postgres 2>/dev/null
once postgres /setup/restore.sh restore "${TO-}"
once nats sh -c 'rm -rf /data/jetstream'
echo "restore: starting again"
docker compose --progress quiet up --detach --no-build
deadline=$((SECONDS + patience))
while docker compose ps --format '{{.Service}} {{.Health}}' account-service transaction-service nginx | grep -v ' healthy$' >/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || {
        echo "restore: not healthy after $patience s; make ps, make logs" >&2
        exit 1
    }
    sleep 0.5
done
echo "restore: done after $((SECONDS - began)) s"
docker compose exec -T account-service python -m app.verify
