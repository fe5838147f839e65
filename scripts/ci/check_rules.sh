#!/usr/bin/env bash
# Check Prometheus' and Alertmanager's rules and configuration with the tools out of the images that will read them, and
# run the rules' own tests. Where no registry answers, the images from Debian packages do (make offline-images).
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

# image VARIABLE: the name of an image that is here.
image() {
    local stand_in
    stand_in=$(sed -n "s/^$1=//p" docker/offline/images.env)
    if present "${!1}" || { ! present "$stand_in" && timeout 60 docker pull --quiet "${!1}" >/dev/null 2>&1; }; then
        echo "${!1}"
    elif present "$stand_in"; then
        echo "$stand_in"
    else
        fail "there is neither ${!1} nor $stand_in; make offline-images builds the latter"
    fi
}

# tool PROGRAM IMAGE ARGUMENT …
tool() {
    local program=$1 from=$2
    shift 2
    docker run --rm --network none --volume "$PWD/monitoring:/etc/monitoring:ro" --workdir /etc/monitoring --entrypoint "$program" \
        "$from" "$@"
}

docker info >/dev/null 2>&1 || fail "no Docker engine answers"
prometheus=$(image PROMETHEUS_IMAGE)
alertmanager=$(image ALERTMANAGER_IMAGE)
cd monitoring
rules=(rules/*.yml)
tests=(rules/tests/*.yml)
cd ..
[ -e "monitoring/${tests[0]}" ] || fail "there are no tests of rules"
tool promtool "$prometheus" check rules "${rules[@]}"
tool promtool "$prometheus" test rules "${tests[@]}"
tool amtool "$alertmanager" check-config alertmanager.yml
