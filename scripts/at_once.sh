# shellcheck shell=bash
# Sourced by what runs many commands: as many at once as there are cores, and what they print one after the other.
#
#   at_once=3               how many at once, if not as many as there are cores
#   begin NAME COMMAND …    begin it as soon as one of them is free
#   hear HEADING            wait for all, in their order: call HEADING NAME, print what it printed; sets `unsuccessful`

at_once=$(nproc)
begun=()
pids=()
unsuccessful=()
printed=$(mktemp -d)
trap end_all EXIT
# Killed by Ctrl-C while it waits, the shell would know of no jobs any more.
trap 'exit 130' INT

end_all() {
    local pid
    for pid in $(jobs -pr); do kill -INT -- "-$pid" 2>/dev/null; done
    rm -rf "$printed"
}

begin() {
    local name=$1 at=$printed/${#begun[@]}
    shift
    while [ "$(jobs -pr | wc -l)" -ge "$at_once" ]; do wait -n; done
    # A process group of its own: what is begun here ends with whoever began it, also by Ctrl-C.
    set -m
    { "$@" </dev/null >"$at" 2>&1 || touch "$at.failed"; } &
    set +m
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
