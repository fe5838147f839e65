#!/usr/bin/env bash
# Create a virtual environment with pinned requirements unless it is up to date: bootstrap.sh [run|dev|ops|deploy|go|scan]
#   run, dev      .venv: for make run, demo and token; for everything
#   ops, deploy   .venv-ops: Ansible; the same with its collections
#   go            .venv-go: the Go toolchain that builds checkers
#   scan          .venv-scan: Trivy
# uv installs them; pip installs uv into .venv-uv.
# PYTHON=… selects the interpreter.
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

# A stamp names the installed set and its requirements; `dev` contains `run`, and `deploy` contains `ops`.
requirements_stamp() {
    [ ! -f "requirements-$1.txt" ] || echo "$1 $(cksum <"requirements-$1.txt")"
}

# installed VENV SET …: whether the environment works and has one of the sets as it is now.
installed() {
    local venv=$1 found set_name
    shift
    found=$(cat "$venv/.requirements" 2>/dev/null) || return 1
    "$venv/bin/python" -c '' 2>/dev/null || return 1
    for set_name in "$@"; do
        [ "$found" != "$(requirements_stamp "$set_name")" ] || return 0
    done
    return 1
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
    fail "Python 3.11 or newer is required${too_old:+, but $too_old}; install it, or set PYTHON=/path/to/python3"
}

install_uv() {
    installed .venv-uv uv && return
    find_python
    "$python" -c 'import ensurepip' 2>/dev/null || scripts/local/ensure_packages.sh "python$version-venv" ||
        fail "$python cannot create virtual environments"
    rm -rf .venv-uv
    "$python" -m venv .venv-uv || fail "$python -m venv failed, see the output above"
    .venv-uv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --require-hashes -r requirements-uv.txt >&2 ||
        fail "pip could not install requirements-uv.txt, see the output above"
    requirements_stamp uv >.venv-uv/.requirements
}

# pip_setting NAME: a value from pip's configuration files and environment; the last one counts. pip separates several
# by line breaks, uv by spaces.
pip_setting() {
    .venv-uv/bin/python -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.$1='\([^']*\)'\$/\1/p" | tail -n 1 |
        sed 's/\\n/ /g; s/^ *//; s/ *$//'
}

# uv does not read pip's configuration: a company's index and certificates that work for pip have to work here.
follow_pip_configuration() {
    local value
    # As pip does: the system's certificates beside the bundled ones.
    export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS-true}
    value=$(pip_setting index-url)
    [ -z "$value" ] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX-$value}
    value=$(pip_setting extra-index-url)
    [ -z "$value" ] || export UV_INDEX=${UV_INDEX-$value}
    value=$(pip_setting trusted-host)
    [ -z "$value" ] || export UV_INSECURE_HOST=${UV_INSECURE_HOST-$value}
    value=$(pip_setting cert)
    [ -z "$value" ] || export SSL_CERT_FILE=${SSL_CERT_FILE-$value}
    # `timeout` in its files, PIP_DEFAULT_TIMEOUT in the environment.
    value=$(pip_setting timeout)
    [ -n "$value" ] || value=$(pip_setting default-timeout)
    export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT-${value:-180}}
}

[ -f "$requirements" ] || fail "no such set: $set_name; use run, dev, ops, deploy, go or scan"
installed "$venv" "$set_name" "$larger" && exit 0

# Lock, because `make run` and `make test` may start at the same time.
if command -v flock >/dev/null; then
    exec 9<.
    flock 9
    installed "$venv" "$set_name" "$larger" && exit 0
fi

install_uv
follow_pip_configuration
# Without a stamp the environment is incomplete, and without a working interpreter it is of no use: start over.
if [ ! -f "$venv/.requirements" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    find_python
    echo "creating $venv with Python $version" >&2
    rm -rf "$venv"
    .venv-uv/bin/uv venv --quiet --no-config --no-python-downloads --python "$(command -v "$python")" "$venv" ||
        fail "uv could not create $venv, see the output above"
fi

echo "installing $requirements" >&2
rm -f "$venv/.requirements"
# Compiled now, once; otherwise every process would compile what it imports.
.venv-uv/bin/uv pip install --quiet --no-config --python "$venv/bin/python" --compile-bytecode --require-hashes -r "$requirements" >&2 ||
    fail "uv could not install $requirements, see the output above"
requirements_stamp "$set_name" >"$venv/.requirements"
