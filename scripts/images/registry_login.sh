#!/usr/bin/env bash
# Log in to the registry that images are pushed to: REGISTRY=host/path REGISTRY_USER=… REGISTRY_PASSWORD=… registry_login.sh
set -euo pipefail

[ -n "${REGISTRY-}" ] || {
    echo "registry: FAILED: REGISTRY is not set; on GitHub it is a variable of the repository" >&2
    exit 1
}
docker login --username "$REGISTRY_USER" --password-stdin "${REGISTRY%%/*}" <<<"$REGISTRY_PASSWORD"
