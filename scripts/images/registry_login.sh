#!/usr/bin/env bash
# Log in to the image registry of REGISTRY, or log out: registry_login.sh [--logout]
# The credentials come from the environment, see scripts/lib/registry.sh. DOCKER_CONFIG is the folder that stores them.
set -euo pipefail
# shellcheck source=scripts/lib/registry.sh
. "$(dirname "$0")/../lib/registry.sh"

case ${1-} in
    '')
        find_registry_credentials
        # Docker creates the file with mode 0600; the folder may be new.
        umask 077
        docker login --username "$registry_username" --password-stdin "$registry_host" <<<"$registry_password"
        ;;
    --logout)
        find_registry_host
        docker logout "$registry_host"
        ;;
    *)
        echo "usage: registry_login.sh [--logout]" >&2
        exit 2
        ;;
esac
