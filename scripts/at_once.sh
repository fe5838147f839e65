# shellcheck shell=bash
# Sourced by what runs many commands: as many at once as there are cores, and what they print one after the other.
#
#   begin NAME COMMAND …    begin it as soon as a core is free
#   hear HEADING            wait for all, in their order: call HEADING NAME, print what it printed; sets `unsuccessful`

begun=()
pids=()
unsuccessful=()
printed=$(mktemp -d)
trap 'rm -rf "$printed"' EXIT

begin() {
    local name=$1 at=$printed/${#begun[@]}
    shift
    while [ "$(jobs -pr | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    { "$@" >"$at" 2>&1 || touch "$at.failed"; } &
    pids+=($!)
    begun+=("$name")
}

hear() {
    local n
    for n in "${!begun[@]}"; do
        wait "${pids[n]}"
        "$1" "${begun[n]}"
        cat "$printed/$n"
        [ ! -e "$printed/$n.failed" ] || unsuccessful+=("${begun[n]}")
    done
}
