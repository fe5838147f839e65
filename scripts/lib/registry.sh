# shellcheck shell=bash
# Sourced by scripts that authenticate to the image registry that REGISTRY names: host/path, or a namespace of Docker Hub.
#
#   registry_prefix             prints the prefix of image names as Docker prints it, without docker.io/
#   find_registry_host          sets registry_host, as `docker login` expects it
#   find_registry_credentials   sets registry_username and registry_password as well; fails with a message if there are none
#   pushed_image IMAGE:TAG      prints the reference by digest of a local image that was pushed
#   index_images IMAGE:TAG      prints those of its variants, one for each platform of PLATFORMS
#   create_index IMAGE:TAG      creates the index of these variants in the registry
#   index_digest IMAGE:TAG      prints the digest of the index of these variants, from what was built here
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

pushed_image() {
    docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$1" | grep -F "${1%:*}@" | sed -n 1p | grep .
}

index_images() {
    local platforms platform
    IFS=, read -ra platforms <<<"${PLATFORMS-}"
    for platform in "${platforms[@]}"; do
        pushed_image "$1-${platform##*/}" || return 1
    done
}

create_index() {
    local images
    images=$(index_images "$1") || return 1
    # shellcheck disable=SC2086  # a word per image
    docker buildx imagetools create --tag "$1" $images
}

# buildx prints the index and a line break; it is the manifest itself if there is only one.
index_digest() {
    local images
    images=$(index_images "$1") || return 1
    # shellcheck disable=SC2086  # a word per image
    docker buildx imagetools create --dry-run $images | head --bytes=-1 | sha256sum | sed 's/\([0-9a-f]*\).*/sha256:\1/'
}
