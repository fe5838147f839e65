#!/usr/bin/env bash
# Log in to the image registry: REGISTRY=host/path REGISTRY_USER=… REGISTRY_PASSWORD=… registry_login.sh
set -euo pipefail

[ -n "${REGISTRY-}" ] || {
    echo "registry: FAILED: REGISTRY is not set (on GitHub: a repository variable)" >&2
    exit 1
}
docker login --username "$REGISTRY_USER" --password-stdin "${REGISTRY%%/*}" <<<"$REGISTRY_PASSWORD"
