# shellcheck shell=bash
# Sourced by scripts that authenticate to the image registry that REGISTRY names: host/path, or a namespace of Docker Hub.
#
#   registry_prefix             prints the prefix of image names as Docker prints it, without docker.io/
#   find_registry_host          sets registry_host, as `docker login` expects it
#   find_registry_credentials   sets registry_username and registry_password as well; fails with a message if there are none
#
# REGISTRY_USERNAME and REGISTRY_PASSWORD apply to any registry, DOCKERHUB_USERNAME and DOCKERHUB_TOKEN only to Docker Hub:
# no other registry receives its token. ghcr.io also accepts the token of a workflow, GHCR_TOKEN.

registry_error() {
    echo "registry: FAILED: $*" >&2
    return 1
}

registry_prefix() {
    case ${REGISTRY-} in
        docker.io/* | index.docker.io/* | registry-1.docker.io/*) echo "${REGISTRY#*/}" ;;
        *) echo "${REGISTRY-}" ;;
    esac
}

find_registry_host() {
    [ -n "${REGISTRY-}" ] || registry_error "REGISTRY is not set (on GitHub: a repository variable)" || return 1
    registry_host=${REGISTRY%%/*}
    # As in image references: a first part without a dot, a colon or the name localhost is a namespace of Docker Hub.
    [[ $registry_host == *[.:]* || $registry_host == localhost ]] || registry_host=docker.io
    case $registry_host in
        index.docker.io | registry-1.docker.io | hub.docker.com) registry_host=docker.io ;;
    esac
}

find_registry_credentials() {
    local names="REGISTRY_USERNAME and REGISTRY_PASSWORD"
    find_registry_host || return 1
    registry_username=${REGISTRY_USERNAME-}
    registry_password=${REGISTRY_PASSWORD-}
    if [ -z "$registry_username$registry_password" ]; then
        case $registry_host in
            docker.io)
                names="DOCKERHUB_USERNAME and DOCKERHUB_TOKEN"
                registry_username=${DOCKERHUB_USERNAME-}
                registry_password=${DOCKERHUB_TOKEN-}
                ;;
            ghcr.io)
                registry_password=${GHCR_TOKEN-}
                # Every workflow has an actor, also without a token.
                registry_username=${registry_password:+${GITHUB_ACTOR-}}
                ;;
        esac
    fi
    [ -n "$registry_username" ] && [ -n "$registry_password" ] && return
    registry_error "no credentials for $registry_host; set both $names (on GitHub: secrets)"
}
