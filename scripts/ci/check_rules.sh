#!/usr/bin/env bash
# Check the rules and configuration of Prometheus and Alertmanager with promtool and amtool from the deployed images, and
# run the unit tests of the rules. Without a registry, the offline images are used (make offline-images).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh

fail() {
    echo "rules: FAILED: $*" >&2
    exit 1
}

present() {
    docker image inspect "$1" >/dev/null 2>&1
}

# image VARIABLE: print the name of a local image, pulled if necessary.
image() {
    local offline
    offline=$(sed -n "s/^$1=//p" docker/offline/images.env)
    if present "${!1}" || { ! present "$offline" && timeout 60 docker pull --quiet "${!1}" >/dev/null 2>&1; }; then
        echo "${!1}"
    elif present "$offline"; then
        echo "$offline"
    else
        fail "neither ${!1} nor $offline is available; build the latter with: make offline-images"
    fi
}

# tool PROGRAM IMAGE ARGUMENT …: run a program of an image on the monitoring folder.
tool() {
    local program=$1 from=$2
    shift 2
    docker run --rm --network none --volume "$PWD/monitoring:/etc/monitoring:ro" --workdir /etc/monitoring --entrypoint "$program" \
        "$from" "$@"
}

make_readable monitoring
docker info >/dev/null 2>&1 || fail "Docker Engine is not reachable"
prometheus=$(image PROMETHEUS_IMAGE)
alertmanager=$(image ALERTMANAGER_IMAGE)
cd monitoring
rules=(rules/*.yml)
tests=(rules/tests/*.yml)
cd ..
[ -e "monitoring/${tests[0]}" ] || fail "no rule tests found in monitoring/rules/tests"
tool promtool "$prometheus" check rules "${rules[@]}"
tool promtool "$prometheus" test rules "${tests[@]}"
tool amtool "$alertmanager" check-config alertmanager.yml
