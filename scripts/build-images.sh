#!/usr/bin/env bash
# Build the service images from the working tree: build-images.sh [--push|--list]
# BUILD_COMMIT=… builds from the files of that commit instead and ignores the working tree.
# REGISTRY=registry.example/bank sets the image name prefix (default bank), SERVICES="…" selects services,
# PYTHON_IMAGE=… sets the base image. Tags: the commit (or VERSION=…) and latest.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh

# shellcheck source=scripts/lib/progress.sh
. scripts/lib/progress.sh

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

registry=${REGISTRY:-bank}
tag=${VERSION:-$(version)}
commit=${BUILD_COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

secrets=()
ca=${PIP_CERT:-${REQUESTS_CA_BUNDLE:-${SSL_CERT_FILE-}}}
[ -z "$ca" ] || secrets+=(--secret "id=ca,src=$ca")
[ -z "${PIP_INDEX_URL-}" ] || secrets+=(--secret "id=index,env=PIP_INDEX_URL")

# With the base image in the local store, the build does not contact a registry.
docker image inspect "$PYTHON_IMAGE" >/dev/null 2>&1 || docker pull --quiet "$PYTHON_IMAGE" >/dev/null

build() {
    docker buildx build --builder default --file "$context/$service/Dockerfile" --build-arg "BASE_IMAGE=$PYTHON_IMAGE" \
        --build-arg "COMMIT=$commit" --build-arg "VERSION=$tag" "${secrets[@]}" \
        --tag "$image:$tag" --tag "$image:latest" --load --progress plain "$context" >"$work/log" 2>&1
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
    if ! with_spinner "building" build; then
        tail -n 20 "$work/log" | cut -c 1-200 | sed 's/^/    /' >&2
        echo "build-images: could not build $image, see the output above" >&2
        exit 1
    fi
    info "$(docker image inspect --format '{{.Size}}' "$image:$tag" | awk '{ printf "%.0f MB", $1 / 1e6 }')," \
        "built in $((SECONDS - started)) s"
    if [ -n "$push" ]; then
        docker push --quiet "$image:$tag"
    fi
done
finished build-images "${#services[@]} images"
