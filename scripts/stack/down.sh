#!/usr/bin/env bash
# Stop the platform and remove its containers and networks. The data is kept unless VOLUMES=1.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh

# Remove a Swarm stack of this name and the containers of its jobs, which Swarm keeps; its volumes have Compose's names.
stack="label=com.docker.stack.namespace=$COMPOSE_PROJECT_NAME"
if docker stack ls --format '{{.Name}}' 2>/dev/null | grep -x "$COMPOSE_PROJECT_NAME" >/dev/null; then
    docker stack rm --detach=false "$COMPOSE_PROJECT_NAME"
    # Containers may still be stopping after their service was removed.
    until [ -z "$(docker ps --quiet --filter "$stack")$(docker network ls --quiet --filter "$stack")" ]; do
        sleep 0.5
    done
    docker ps --all --quiet --filter "$stack" | xargs -r docker rm >/dev/null
fi

arguments=(--remove-orphans)
[ "${VOLUMES-}" != 1 ] || arguments+=(--volumes)
# All profiles, because disabled ones may still have running containers.
docker compose --profile '*' down "${arguments[@]}"
if [ "${VOLUMES-}" = 1 ]; then
    # Passwords of the removed databases, and the selected images.
    rm -rf "$VAR_DIR/docker"
    echo "stack and data removed; images are kept"
else
    echo "stack stopped; data is kept in the volumes of $COMPOSE_PROJECT_NAME (make down VOLUMES=1 removes it)"
fi
