#!/usr/bin/env bash
# Stop the platform and remove its containers and networks; the data stays unless VOLUMES=1.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/stack_env.sh
. scripts/stack_env.sh

arguments=(--remove-orphans)
[ "${VOLUMES-}" != 1 ] || arguments+=(--volumes)
docker compose down "${arguments[@]}"
if [ "${VOLUMES-}" = 1 ]; then
    # The passwords of what is gone, and the choice of images.
    rm -rf "$VAR_DIR/docker"
    echo "everything is removed, the data as well; the images stay for the next time"
else
    echo "stopped; the data is in the volumes of $COMPOSE_PROJECT_NAME (make down VOLUMES=1 removes it)"
fi
