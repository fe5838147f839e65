#!/usr/bin/env bash
# Stop the platform and remove its containers and networks; the data stays unless VOLUMES=1.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh

# A Swarm stack of this name goes first, and the containers of jobs, which Swarm leaves; its volumes have compose's names.
stack="label=com.docker.stack.namespace=$COMPOSE_PROJECT_NAME"
if docker stack ls --format '{{.Name}}' 2>/dev/null | grep -x "$COMPOSE_PROJECT_NAME" >/dev/null; then
    docker stack rm --detach=false "$COMPOSE_PROJECT_NAME"
    # Containers stop for as long as they may after their service has gone.
    until [ -z "$(docker ps --quiet --filter "$stack")$(docker network ls --quiet --filter "$stack")" ]; do
        sleep 0.5
    done
    docker ps --all --quiet --filter "$stack" | xargs -r docker rm >/dev/null
fi

arguments=(--remove-orphans)
[ "${VOLUMES-}" != 1 ] || arguments+=(--volumes)
# Also what has been started of profiles that are off now.
docker compose --profile '*' down "${arguments[@]}"
if [ "${VOLUMES-}" = 1 ]; then
    # The passwords of what is gone, and the choice of images.
    rm -rf "$VAR_DIR/docker"
    echo "everything is removed, the data as well; the images stay for the next time"
else
    echo "stopped; the data is in the volumes of $COMPOSE_PROJECT_NAME (make down VOLUMES=1 removes it)"
fi
