#!/usr/bin/env bash
# Build all base images from Debian packages, for machines that reach a Debian mirror but no image registry.
# docker/offline/images.env lists their names. Images built with the same recipe are kept.
# FORCE=1 rebuilds all with current packages, DEBIAN_MIRROR=… overrides the mirror of this machine's apt.
set -euo pipefail
cd "$(dirname "$0")/../.."
umask 022

suite=trixie
base=bank-offline/debian:$suite
jobs=$(nproc)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# shellcheck source=scripts/lib/progress.sh
. scripts/lib/progress.sh
# shellcheck source=scripts/lib/debian_sources.sh
. scripts/lib/debian_sources.sh

fail() {
    failed offline-images "$*"
    exit 1
}

current() {
    [ -z "${FORCE-}" ] && [ "$(docker image inspect --format '{{index .Config.Labels "bank.recipe"}}' "$1" 2>/dev/null)" = "$recipe" ]
}

# Exclude documentation that containers do not need, but keep the licences.
build_base() {
    local part without=()
    for part in doc man locale info; do
        without+=("--dpkgopt=path-exclude=/usr/share/$part/*")
    done
    # mmdebstrap expands $1, not this shell.
    # shellcheck disable=SC2016
    mmdebstrap --quiet --variant=minbase --include=busybox,ca-certificates --format=tar \
        "${without[@]}" '--dpkgopt=path-include=/usr/share/doc/*/copyright' --dpkgopt=force-unsafe-io \
        --customize-hook='rm -rf "$1"/etc/apt/sources.list* "$1"/var/log/apt "$1"/var/log/*.log' \
        "$suite" - "$work/suite.list" |
        docker import --change "LABEL bank.recipe=$recipe" --change "CMD [\"bash\"]" - "$base"
}

build_stage() {
    docker buildx build --builder default --target "$1" --tag "$2" --label "bank.recipe=$recipe" --build-arg "DEBIAN_IMAGE=$base" \
        --secret "id=sources,src=$work/all.list" ${FORCE:+--no-cache} --progress plain docker/offline
}

# run NAME COMMAND …: build an image; its output is shown only if it fails. Builds run in parallel processes, so finished
# ones are counted in a file.
run() {
    local name=$1 started=$SECONDS
    shift
    if ! "$@" >"$work/${name//\//_}.log" 2>&1; then
        tail -n 12 "$work/${name//\//_}.log" | cut -c 1-200 | sed 's/^/    /' >&2
        echo "offline-images: could not build $name, see the output above" >&2
        return 1
    fi
    echo "$name" >>"$work/built"
    steps_started=$(($(wc -l <"$work/built") - 1))
    step "$name built in $((SECONDS - started)) s ($(size "$name"))"
}

size() {
    docker image inspect --format '{{.Size}}' "$1" | awk '{ printf "%.0f MB", $1 / 1e6 }'
}

# Everything that affects the images; the rest of this script may change without a rebuild.
recipe=$({ cat docker/offline/* && declare -f write_sources build_base build_stage; } | sha256sum | cut -c1-16)

missing=()
while IFS='=' read -r variable image; do
    stage=${variable%_IMAGE}
    if current "$image"; then
        info "$image is up to date"
    else
        missing+=("${stage,,} $image")
    fi
done < <(grep '^[A-Z]' docker/offline/images.env)
if [ ${#missing[@]} -eq 0 ]; then
    finished offline-images "all base images are up to date"
    exit
fi

steps=${#missing[@]}
current "$base" || steps=$((steps + 1))
scripts/local/ensure_packages.sh mmdebstrap
write_sources
if current "$base"; then
    info "$base is up to date"
else
    info "$base: installing Debian $suite"
    with_spinner "installing" run "$base" build_base
fi

build_stages() {
    local entry status=0
    for entry in "${missing[@]}"; do
        while [ "$(jobs -pr | wc -l)" -ge "$jobs" ]; do
            wait -n || status=1
        done
        [ "$status" -eq 0 ] || break
        run "${entry#* }" build_stage "${entry% *}" "${entry#* }" &
    done
    while [ "$(jobs -p | wc -l)" -gt 0 ]; do
        wait -n || status=1
    done
    return "$status"
}
info "building ${#missing[@]} images, $jobs in parallel"
build_stages || fail "some images could not be built, see the output above"
finished offline-images "all base images are up to date"
