#!/usr/bin/env bash
# Deploy the stack to Docker Swarm and wait until it runs: swarm_up.sh [VARIABLE …]
# Called by scripts/stack/up.sh (SWARM=1 make up) after it has created secrets, configuration and images. VARIABLEs are the
# replica counts set in the shell; other services keep the replica counts of the autoscaler.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh
timeout_seconds=240

fail() {
    echo "swarm: $*" >&2
    exit 1
}

# Print the services as `NAME REPLICAS` lines; REPLICAS is like 2/2, or 0/1 (1/1 completed) of a job.
services() {
    docker service ls --filter "label=com.docker.stack.namespace=$COMPOSE_PROJECT_NAME" --format '{{.Name}} {{.Replicas}}'
}

unfinished() {
    services | awk '{ split($2, count, "/"); split($3, done, /[(\/]/) }
        !(count[1] == count[2] || ($4 == "completed)" && done[2] == done[3])) { print $1 }'
}

[ "$(docker info --format '{{.Swarm.ControlAvailable}}')" = true ] ||
    fail "this engine is not a Swarm manager; run: docker swarm init --advertise-addr ADDRESS"
for name in ACCOUNT TRANSACTION; do
    service=${COMPOSE_PROJECT_NAME}_${name,,}-service
    running=$(docker service inspect --format '{{.Spec.Mode.Replicated.Replicas}}' "$service" 2>/dev/null || true)
    [[ -z $running || " $* " == *" ${name}_SERVICE_REPLICAS "* ]] || export "${name}_SERVICE_REPLICAS=$running"
done
export AUTOSCALE_SCALER=swarm
docker compose config --format json | .venv/bin/python -m scripts.stack.swarm_stack |
    docker stack deploy --compose-file - --resolve-image never --prune --detach=true "$COMPOSE_PROJECT_NAME" >/dev/null
while [ -n "$(unfinished)" ]; do
    if [ "$SECONDS" -gt "$timeout_seconds" ]; then
        for name in $(unfinished); do
            docker service ps --no-trunc --format '{{.Name}} {{.CurrentState}} {{.Error}}' "$name" | sed -n 1,4p >&2
        done
        fail "not running after $timeout_seconds s: $(unfinished | paste -sd ' ')"
    fi
    sleep 1
done
