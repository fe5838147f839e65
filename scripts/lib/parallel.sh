# shellcheck shell=bash
# Sourced by scripts that run many commands: runs as many in parallel as there are cores and prints their output in order.
#
#   max_parallel=3                      how many run in parallel; default: the number of cores
#   run_in_background NAME COMMAND …    start the command as soon as fewer than max_parallel are running
#   collect HEADING                     wait for all of them, in order: call HEADING NAME and print the output; sets `unsuccessful`

max_parallel=$(nproc)
background_names=()
background_pids=()
unsuccessful=()
background_output=$(mktemp -d)
trap stop_background EXIT
# Without this trap, a shell killed by Ctrl-C during `wait` has an empty list of jobs in stop_background.
trap 'exit 130' INT

stop_background() {
    local pid
    for pid in $(jobs -pr); do kill -INT -- "-$pid" 2>/dev/null; done
    rm -rf "$background_output"
}

run_in_background() {
    local name=$1 output=$background_output/${#background_names[@]}
    shift
    while [ "$(jobs -pr | wc -l)" -ge "$max_parallel" ]; do wait -n; done
    # A separate process group, so that stop_background also ends the children of the command.
    set -m
    { "$@" </dev/null >"$output" 2>&1 || touch "$output.failed"; } &
    set +m
    background_pids+=($!)
    background_names+=("$name")
}

collect() {
    local n
    for n in "${!background_names[@]}"; do
        wait "${background_pids[n]}"
        "$1" "${background_names[n]}"
        cat "$background_output/$n"
        [ ! -e "$background_output/$n.failed" ] || unsuccessful+=("${background_names[n]}")
    done
}
