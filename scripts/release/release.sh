#!/usr/bin/env bash
# Build the images of this commit, push, sign and attest them, and write what deploy.yml takes: release.sh FILE
# REGISTRY=registry.example/bank  where to push            COSIGN_KEY=cosign.key  signs; its password is COSIGN_PASSWORD
# VERSION=…  what it is called (default: git describe)     RELEASE_NUMBER=…       its place in time (default: the commit's)
# REHEARSAL=1  for drills: build this tree as it is, uncommitted changes included; with BUILD=0 take the images
#              $REGISTRY/SERVICE:$VERSION as they are. Without it, images are built from the files of the commit alone
# REPOSITORY=https://…  where the commit is, for the attestations (scripts/release/attest.sh); ATTEST=0 leaves them out
# COSIGN_PRIVATE_KEY=…  the key itself, as a secret holds it, instead of COSIGN_KEY
# KEYLESS=true          sign with the identity of the workflow on GitHub instead
set -euo pipefail
cd "$(dirname "$0")/../.."
# The base image of the commit, and not the one that the last `make up` has chosen on this machine.
export PYTHON_IMAGE=${PYTHON_IMAGE:-$(git show HEAD:.env | sed -n 's/^PYTHON_IMAGE=//p')}
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh

fail() {
    echo "release: $*" >&2
    exit 1
}

[ $# -eq 1 ] || fail "say where to write the release: release.sh FILE"
[ -n "${REGISTRY-}" ] || fail "say where to push: REGISTRY=registry.example/bank"
[ "${ATTEST-}" = 0 ] || [ -n "${REPOSITORY-}" ] ||
    fail "say which repository the images are built from: REPOSITORY=https://… (or ATTEST=0)"
if [ "${REHEARSAL-}" = 1 ]; then
    echo "release: REHEARSAL: nothing vouches for what is in these images; do not deploy them to customers" >&2
else
    [ "${BUILD-}" != 0 ] || fail "BUILD=0: images that were not built here from the commit are for rehearsals (REHEARSAL=1)"
    # They would not be in the release: better said now than missed later.
    [ -z "$(git status --porcelain --untracked-files=no)" ] ||
        fail "there are changes that no commit has; commit them first (or REHEARSAL=1)"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -n "${COSIGN_PRIVATE_KEY-}" ]; then
    (umask 077 && printf '%s\n' "$COSIGN_PRIVATE_KEY" >"$work/cosign.key")
    export COSIGN_KEY=$work/cosign.key
    unset COSIGN_PRIVATE_KEY
fi
[ "${KEYLESS-}" = true ] || [ -f "${COSIGN_KEY-}" ] ||
    fail "say what signs: COSIGN_KEY=cosign.key (scripts/release/cosign.sh generate-key-pair makes one)"
export COSIGN_PASSWORD=${COSIGN_PASSWORD-}
export REGISTRY VERSION=${VERSION:-$(version)}

file=$1
commit=$(git rev-parse HEAD)
number=${RELEASE_NUMBER:-$(git show --no-patch --format=%ct HEAD)}

# quietly COMMAND …: with its output shown only when it fails.
quietly() {
    "$@" >"$work/log" 2>&1 && return
    tail -n 8 "$work/log" | cut -c 1-200 | sed 's/^/    /' >&2
    fail "$1 failed; the lines above say why"
}

read -ra services <<<"$(scripts/build-images.sh --list)"
if [ "${BUILD-}" != 0 ]; then
    [ "${REHEARSAL-}" = 1 ] || export BUILD_COMMIT=$commit
    scripts/build-images.sh --push
else
    for service in "${services[@]}"; do
        quietly docker push --quiet "$REGISTRY/$service:$VERSION"
    done
fi

signs=()
if [ "${KEYLESS-}" != true ]; then
    # No transparency log and no time-stamping service: the bank's own key says who signed, the annotations say when.
    quietly scripts/release/cosign.sh signing-config create --out "$work/signing.json"
    signs=(--key "$COSIGN_KEY" --signing-config "$work/signing.json")
fi
images=()
for service in "${services[@]}"; do
    image=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$REGISTRY/$service:$VERSION" |
        grep -F "$REGISTRY/$service@" | head -n 1) || fail "the registry gave $REGISTRY/$service:$VERSION no digest"
    quietly scripts/release/cosign.sh sign --yes "${signs[@]}" \
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
# Nothing is a release before everything is said about it.
[ "${ATTEST-}" = 0 ] || scripts/release/attest.sh "$work/release.json" "$(dirname "$file")"
mv "$work/release.json" "$file"
echo "release $number ($VERSION): $file"
