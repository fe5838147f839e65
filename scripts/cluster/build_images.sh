#!/usr/bin/env bash
# Build the images of the cluster from Debian packages and PyPI (docker/cluster), and the images that they are based on.
# Builds are cached; FORCE=1 rebuilds them with current packages, DEBIAN_MIRROR=… overrides the mirror of this machine's apt.
set -euo pipefail
cd "$(dirname "$0")/../.."

suite=trixie
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# shellcheck source=scripts/lib/progress.sh
. scripts/lib/progress.sh
# shellcheck source=scripts/lib/debian_sources.sh
. scripts/lib/debian_sources.sh

fail() {
    failed cluster-images "$*"
    exit 1
}

scripts/images/build-offline-images.sh
write_sources
secrets=(--secret "id=sources,src=$work/all.list")
ca=${PIP_CERT:-${REQUESTS_CA_BUNDLE:-${SSL_CERT_FILE-}}}
[ -z "$ca" ] || secrets+=(--secret "id=ca,src=$ca")
[ -z "${PIP_INDEX_URL-}" ] || secrets+=(--secret "id=index,env=PIP_INDEX_URL")

steps=$(grep -c '^[A-Z]' docker/cluster/images.env)
while IFS='=' read -r variable image; do
    stage=${variable%_IMAGE}
    step "$image"
    if ! docker buildx build --builder default --target "${stage,,}" --tag "$image" "${secrets[@]}" ${FORCE:+--no-cache} \
        --progress plain docker/cluster >"$work/log" 2>&1; then
        tail -n 20 "$work/log" | cut -c 1-200 | sed 's/^/    /' >&2
        fail "could not build $image, see the output above"
    fi
done < <(grep '^[A-Z]' docker/cluster/images.env)
finished cluster-images "$steps images"
