# shellcheck shell=bash
# Sourced by long-running commands to print their progress and elapsed time.
# Colours are used only on a terminal, unless NO_COLOR is set. shared/testing/progress.py is the equivalent for Python.
#
#   steps=6                       total number of steps
#   step TEXT                     start the next step:   [2/6]    12 s  TEXT
#   info TEXT                     print a detail:                 14 s  TEXT
#   finished NAME TEXT            print the last line:   ✓ NAME: TEXT, after 2 min 5 s
#   failed NAME TEXT              the same with ✗, on standard error
#   with_spinner TEXT COMMAND …   run a command without output and show the elapsed time meanwhile

steps=0
steps_started=0

# colour FILE_DESCRIPTOR CODE TEXT: print the text, coloured with an SGR code if the descriptor is a terminal.
colour() {
    if [ -t "$1" ] && [ -z "${NO_COLOR-}" ]; then
        printf '\033[%sm%s\033[0m' "$2" "$3" >&"$1"
    else
        printf '%s' "$3" >&"$1"
    fi
}

info() {
    printf '%*s%5d s  %s\n' $((${#steps} * 2 + 3)) '' "$SECONDS" "$*"
}

step() {
    steps_started=$((steps_started + 1))
    printf '[%*d/%d]%5d s  ' "${#steps}" "$steps_started" "$steps" "$SECONDS"
    colour 1 1 "$*"
    echo
}

duration() {
    if [ "$SECONDS" -lt 120 ]; then
        echo "$SECONDS s"
    else
        echo "$((SECONDS / 60)) min $((SECONDS % 60)) s"
    fi
}

finished() {
    colour 1 32 ✓
    printf ' %s: %s, after %s\n' "$1" "$2" "$(duration)"
}

failed() {
    colour 2 31 ✗
    printf ' %s: %s, after %s\n' "$1" "$2" "$(duration)" >&2
}

# draw_spinner TEXT: update one line every second on a terminal, elsewhere print a line every 30 seconds.
draw_spinner() {
    local started=$SECONDS
    # Bash handles the signal that ends the spinner during `wait`, but not during a foreground `sleep`.
    while sleep 1 >/dev/null 2>&1 & wait $! && kill -0 $$ 2>/dev/null; do
        if [ -t 1 ]; then
            printf '\r\033[K%*s%5d s  %s …' $((${#steps} * 2 + 3)) '' "$SECONDS" "$1"
        elif [ $(((SECONDS - started) % 30)) -eq 0 ]; then
            info "$1 …"
        fi
    done
}

with_spinner() {
    local text=$1 status=0 spinner
    shift
    draw_spinner "$text" &
    spinner=$!
    "$@" || status=$?
    kill "$spinner" 2>/dev/null || true
    wait "$spinner" 2>/dev/null || true
    [ ! -t 1 ] || printf '\r\033[K'
    return "$status"
}
