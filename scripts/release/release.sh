#!/usr/bin/env bash
# Build, push, sign and attest the images of this commit, and write the release file for deploy.yml: release.sh FILE
#   REGISTRY=registry.example/bank   image name prefix to push to
#   PLATFORMS=linux/amd64,linux/arm64  platforms of the images (default: this machine's, without an index)
#   VERSION=…                        version (default: git describe)
#   RELEASE_NUMBER=…                 increasing number of the release (default: time of the commit)
#   REPOSITORY=https://…             source repository, for the attestations; ATTEST=0 makes none
#   COSIGN_KEY=cosign.key            signing key; its password is COSIGN_PASSWORD
#   COSIGN_PRIVATE_KEY=…             content of the signing key instead of its file
#   KEYLESS=true                     sign with the identity of the GitHub workflow instead
#   REHEARSAL=1                      rehearsal release: build from the working tree, uncommitted changes included; with
#                                    BUILD=0 use the existing images $REGISTRY/SERVICE:$VERSION
set -euo pipefail
cd "$(dirname "$0")/../.."
# The base image of the commit, not the one selected by the last `make up` on this machine.
export PYTHON_IMAGE=${PYTHON_IMAGE:-$(git show HEAD:.env | sed -n 's/^PYTHON_IMAGE=//p')}
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh
# shellcheck source=scripts/lib/registry.sh
. scripts/lib/registry.sh

fail() {
    echo "release: $*" >&2
    exit 1
}

[ $# -eq 1 ] || fail "usage: release.sh FILE"
[ -n "${REGISTRY-}" ] || fail "set REGISTRY=registry.example/bank"
[ "${ATTEST-}" = 0 ] || [ -n "${REPOSITORY-}" ] ||
    fail "set REPOSITORY=https://… to the source repository of the images (or ATTEST=0)"
if [ "${REHEARSAL-}" = 1 ]; then
    echo "release: warning: rehearsal release, the content of its images is not verified; do not deploy it to production" >&2
else
    [ "${BUILD-}" != 0 ] || fail "BUILD=0 is only allowed for rehearsal releases (REHEARSAL=1)"
    # Images are built from the commit, so uncommitted changes would be missing.
    [ -z "$(git status --porcelain --untracked-files=no)" ] ||
        fail "the working tree has uncommitted changes; commit them first (or REHEARSAL=1)"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "${COSIGN_PRIVATE_KEY-}" ]; then
    (umask 077 && printf '%s\n' "$COSIGN_PRIVATE_KEY" >"$work/cosign.key")
    export COSIGN_KEY=$work/cosign.key
    unset COSIGN_PRIVATE_KEY
fi
[ "${KEYLESS-}" = true ] || [ -f "${COSIGN_KEY-}" ] ||
    fail "set COSIGN_KEY=cosign.key (scripts/release/cosign.sh generate-key-pair creates one)"
export COSIGN_PASSWORD=${COSIGN_PASSWORD-}
REGISTRY=$(registry_prefix)
export REGISTRY VERSION=${VERSION:-$(version)}

file=$1
commit=$(git rev-parse HEAD)
number=${RELEASE_NUMBER:-$(git show --no-patch --format=%ct HEAD)}

# run_quiet COMMAND …: run a command and show its output only if it fails.
run_quiet() {
    "$@" >"$work/log" 2>&1 && return
    tail -n 8 "$work/log" | cut -c 1-200 | sed 's/^/    /' >&2
    fail "$1 failed, see the output above"
}

read -ra services <<<"$(scripts/build-images.sh --list)"
if [ "${BUILD-}" != 0 ]; then
    [ "${REHEARSAL-}" = 1 ] || export BUILD_COMMIT=$commit
    scripts/build-images.sh --push
else
    # Existing images have one platform.
    unset PLATFORMS
    for service in "${services[@]}"; do
        run_quiet docker push --quiet "$REGISTRY/$service:$VERSION"
    done
fi

signs=()
if [ "${KEYLESS-}" != true ]; then
    # No transparency log and no time-stamping service: signer and release follow from the key and the annotations.
    run_quiet scripts/release/cosign.sh signing-config create --out "$work/signing.json"
    signs=(--key "$COSIGN_KEY" --signing-config "$work/signing.json")
fi
images=()
for service in "${services[@]}"; do
    name=$REGISTRY/$service:$VERSION
    if [ -n "${PLATFORMS-}" ]; then
        digest=$(index_digest "$name") || fail "the images of $name were not pushed"
        image=$REGISTRY/$service@$digest
    else
        image=$(pushed_image "$name") || fail "the registry returned no digest for $name"
    fi
    run_quiet scripts/release/cosign.sh sign --yes "${signs[@]}" \
        -a "service=$service" -a "version=$VERSION" -a "commit=$commit" -a "release=$number" "$image"
    echo "signed $image"
    images+=("    \"$service\": \"$image\"")
done

separated=$(printf '%s,\n' "${images[@]}")
cat >"$work/release.json" <<END
{"banking_app_release": {
  "version": "$VERSION",
  "commit": "$commit",
  "release": $number,
  "images": {
${separated%,}
  }
}}
END
mkdir -p "$(dirname "$file")"
# The release file is written last, after all attestations.
[ "${ATTEST-}" = 0 ] || scripts/release/attest.sh "$work/release.json" "$(dirname "$file")"
mv "$work/release.json" "$file"
echo "release $number ($VERSION): $file"
