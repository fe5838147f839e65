# shellcheck shell=bash
# Sourced by commands that take long, for whoever waits: what is happening, how far it is, how long it takes.
# Colours only on a terminal, and not where NO_COLOR is set. shared/testing/progress.py is the same for Python.
#
#   steps=6                       how many there will be
#   step WHAT                     the next one begins:   [2/6]    12 s  WHAT
#   say WHAT                      more about it:                  14 s  WHAT
#   finished NAME WHAT            the last line:         ✓ NAME: WHAT, after 2 min 5 s
#   failed NAME WHAT              the same, as ✗ and to standard error
#   patiently WHAT COMMAND …      run a command that says nothing for long; its time is told while it runs

steps=0
steps_begun=0

# mark FILE_DESCRIPTOR COLOUR TEXT: print the text there, in a colour (an SGR code) where that shows.
mark() {
    if [ -t "$1" ] && [ -z "${NO_COLOR-}" ]; then
        printf '\033[%sm%s\033[0m' "$2" "$3" >&"$1"
    else
        printf '%s' "$3" >&"$1"
    fi
}

say() {
    printf '%*s%5d s  %s\n' $((${#steps} * 2 + 3)) '' "$SECONDS" "$*"
}

step() {
    steps_begun=$((steps_begun + 1))
    printf '[%*d/%d]%5d s  ' "${#steps}" "$steps_begun" "$steps" "$SECONDS"
    mark 1 1 "$*"
    echo
}

took() {
    if [ "$SECONDS" -lt 120 ]; then
        echo "$SECONDS s"
    else
        echo "$((SECONDS / 60)) min $((SECONDS % 60)) s"
    fi
}

finished() {
    mark 1 32 ✓
    printf ' %s: %s, after %s\n' "$1" "$2" "$(took)"
}

failed() {
    mark 2 31 ✗
    printf ' %s: %s, after %s\n' "$1" "$2" "$(took)" >&2
}

# tick WHAT: on a terminal one line that counts, elsewhere a line every half minute.
tick() {
    local began=$SECONDS
    # Waited for in the background, so that the end of the command ends the tick at once.
    while sleep 1 >/dev/null 2>&1 & wait $! && kill -0 $$ 2>/dev/null; do
        if [ -t 1 ]; then
            printf '\r\033[K%*s%5d s  %s …' $((${#steps} * 2 + 3)) '' "$SECONDS" "$1"
        elif [ $(((SECONDS - began) % 30)) -eq 0 ]; then
            say "$1 …"
        fi
    done
}

patiently() {
    local what=$1 status=0 ticker
    shift
    tick "$what" &
    ticker=$!
    "$@" || status=$?
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    [ ! -t 1 ] || printf '\r\033[K'
    return "$status"
}
