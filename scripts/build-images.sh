#!/usr/bin/env bash
# Build the service images from the working tree: build-images.sh [--push|--list]
# BUILD_COMMIT=… builds from the files of that commit instead and ignores the working tree.
# REGISTRY=registry.example/bank sets the image name prefix (default bank), SERVICES="…" selects services,
# PYTHON_IMAGE=… sets the base image. Tags: the commit (or VERSION=…) and latest.
# PLATFORMS=linux/amd64,linux/arm64 builds and pushes an image of each platform (tag VERSION-arm64), and an index of them as
# VERSION; those of other architectures than this machine's are built with QEMU.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh

# shellcheck source=scripts/lib/progress.sh
. scripts/lib/progress.sh
# shellcheck source=scripts/lib/registry.sh
. scripts/lib/registry.sh

read -ra services <<<"${SERVICES:-account-service transaction-service autoscale-service rollout-service}"
push=
case ${1-} in
    '') ;;
    --push) push=yes ;;
    --list)
        echo "${services[*]}"
        exit
        ;;
    *)
        echo "usage: build-images.sh [--push|--list]" >&2
        exit 2
        ;;
esac

platforms=()
[ -z "${PLATFORMS-}" ] || IFS=, read -ra platforms <<<"$PLATFORMS"
if [ ${#platforms[@]} -gt 0 ] && [ -z "$push" ]; then
    echo "build-images: PLATFORMS requires --push: the local store has images of one platform only" >&2
    exit 2
fi
registry=${REGISTRY:-bank}
tag=${VERSION:-$(version)}
commit=${BUILD_COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

secrets=()
ca=${PIP_CERT:-${REQUESTS_CA_BUNDLE:-${SSL_CERT_FILE-}}}
[ -z "$ca" ] || secrets+=(--secret "id=ca,src=$ca")
[ -z "${PIP_INDEX_URL-}" ] || secrets+=(--secret "id=index,env=PIP_INDEX_URL")

# Debian's and Ubuntu's package registers QEMU with the kernel, so that containers run programs of other architectures.
for platform in "${platforms[@]}"; do
    case $platform/$(uname -m) in
        linux/amd64/x86_64 | linux/arm64/aarch64) ;;
        linux/amd64/* | linux/arm64/*) scripts/local/ensure_packages.sh qemu-user-static ;;
        *)
            echo "build-images: PLATFORMS: $platform is not linux/amd64 or linux/arm64" >&2
            exit 2
            ;;
    esac
done

# With the base image in the local store, the build does not contact a registry.
docker image inspect "$PYTHON_IMAGE" >/dev/null 2>&1 || docker pull --quiet "$PYTHON_IMAGE" >/dev/null

# build TAG [OPTION …]
build() {
    docker buildx build --builder default --file "$context/$service/Dockerfile" --build-arg "BASE_IMAGE=$PYTHON_IMAGE" \
        --build-arg "COMMIT=$commit" --build-arg "VERSION=$tag" "${secrets[@]}" \
        --tag "$image:$1" "${@:2}" --load --progress plain "$context" >"$work/log" 2>&1
}

build_platforms() {
    local platform
    for platform in "${platforms[@]}"; do
        build "$tag-${platform##*/}" --platform "$platform" || return 1
    done
}

push_index() {
    local platform
    for platform in "${platforms[@]}"; do
        docker push --quiet "$image:$tag-${platform##*/}"
    done
    create_index "$image:$tag" >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        return 1
    }
}

steps=${#services[@]}
context=.
if [ -n "${BUILD_COMMIT-}" ]; then
    context=$work/tree
    exported=$(python3 -m scripts.release.commit_tree export "$BUILD_COMMIT" "$context")
    info "$exported"
fi
for service in "${services[@]}"; do
    image=$registry/$service
    started=$SECONDS
    step "$image:$tag"
    if [ ${#platforms[@]} -gt 0 ]; then command=(build_platforms); else command=(build "$tag" --tag "$image:latest"); fi
    if ! with_spinner "building" "${command[@]}"; then
        tail -n 20 "$work/log" | cut -c 1-200 | sed 's/^/    /' >&2
        echo "build-images: could not build $image, see the output above" >&2
        exit 1
    fi
    built=$image:$tag
    [ ${#platforms[@]} -eq 0 ] || built+=-${platforms[0]##*/}
    info "$(docker image inspect --format '{{.Size}}' "$built" | awk '{ printf "%.0f MB", $1 / 1e6 }')," \
        "built in $((SECONDS - started)) s"
    if [ ${#platforms[@]} -gt 0 ]; then
        push_index
    elif [ -n "$push" ]; then
        docker push --quiet "$image:$tag"
    fi
done
finished build-images "${#services[@]} images"
