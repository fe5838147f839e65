#!/usr/bin/env bash
# Make .venv with what `run` (make run, demo, token) or `dev` (everything) needs: bootstrap.sh [run|dev]
# Ansible gets an environment of its own, .venv-ops: bootstrap.sh ops|deploy, where `deploy` has its collections as well;
# and so do the Go that builds checkers, .venv-go: bootstrap.sh go, and Trivy, .venv-scan: bootstrap.sh scan.
# Costs nothing when it is there already. PYTHON=… picks the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."

set_name=${1:-run}
requirements=requirements-$set_name.txt
case $set_name in
    ops | deploy)
        venv=.venv-ops
        larger=deploy
        ;;
    go | scan)
        venv=.venv-$set_name
        larger=$set_name
        ;;
    *)
        venv=.venv
        larger=dev
        ;;
esac
stamp=$venv/.requirements

# The stamp names the installed set and its requirements; `dev` contains `run`, and `deploy` contains `ops`.
stamp_of() {
    [ ! -f "requirements-$1.txt" ] || echo "$1 $(cksum <"requirements-$1.txt")"
}

installed() {
    local found
    found=$(cat "$stamp" 2>/dev/null) || return 1
    [ "$found" = "$(stamp_of "$set_name")" ] || [ "$found" = "$(stamp_of "$larger")" ] || return 1
    "$venv/bin/python" -c '' 2>/dev/null
}

fail() {
    echo "bootstrap: $*" >&2
    exit 1
}

find_python() {
    local candidate found too_old=
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        found=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            python=$candidate
            version=$found
            return
        fi
        too_old="$candidate is $found"
    done
    fail "Python 3.11 or newer is needed${too_old:+, but $too_old}; install one, or name it: PYTHON=/path/to/python3"
}

[ -f "$requirements" ] || fail "there is no $requirements; say run, dev, ops, deploy, go or scan"
installed && exit 0

# One at a time: `make run` and `make test` may both find nothing here.
if command -v flock >/dev/null; then
    exec 9<.
    flock 9
    installed && exit 0
fi

# Without a stamp the environment is half made, and without a working interpreter it is of no use: begin again.
if [ ! -f "$stamp" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    find_python
    "$python" -c 'import ensurepip' 2>/dev/null || scripts/local/ensure_packages.sh "python$version-venv" ||
        fail "$python cannot make virtual environments"
    echo "making $venv with Python $version" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "$python -m venv failed; the lines above say why"
fi

echo "installing $requirements" >&2
rm -f "$stamp"
"$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --require-hashes -r "$requirements" >&2 ||
    fail "pip could not install $requirements; the lines above say why"
stamp_of "$set_name" >"$stamp"
