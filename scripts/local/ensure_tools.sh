#!/usr/bin/env bash
# Build checkers that are written in Go into .tools, unless they are there: ensure_tools.sh actionlint gitleaks …
# .ci/tools/NAME pins each with the hashes of everything that goes into it. Where Go is missing or too old, the one of
# requirements-go.txt is used. Exits 1 and says why when a tool cannot be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
# Neither another Go nor other versions than those pinned, whatever the machine is set to.
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off

fail() {
    echo "tools: $*" >&2
    exit 1
}

stamp_of() {
    cat ".ci/tools/$1/go.mod" ".ci/tools/$1/go.sum" | cksum
}

current() {
    [ -x ".tools/$1" ] && [ "$(cat ".tools/$1.stamp" 2>/dev/null)" = "$(stamp_of "$1")" ]
}

# find_go TOOL: the machine's Go when it is as new as the tool asks for.
find_go() {
    local needed found
    needed=$(sed -n 's/^go //p' ".ci/tools/$1/go.mod")
    found=$(go env GOVERSION 2>/dev/null | sed 's/^go//' || true)
    if [ -n "$found" ] && printf '%s\n' "$needed" "$found" | sort --version-sort --check=quiet; then
        go=$(command -v go)
        return
    fi
    scripts/local/bootstrap.sh go || fail "$1 needs Go $needed, which this machine has not (${found:-none}) and pip could not bring"
    go=$root/.venv-go/bin/go
}

for tool in "$@"; do
    [ -f ".ci/tools/$tool/go.mod" ] || fail "there is no .ci/tools/$tool/go.mod"
    current "$tool" && continue
    find_go "$tool"
    echo "building $tool" >&2
    mkdir -p .tools
    package=$(sed -n 's/^tool //p' ".ci/tools/$tool/go.mod")
    (cd ".ci/tools/$tool" && "$go" build -trimpath -o "$root/.tools/$tool" "$package") ||
        fail "could not build $tool; the lines above say why"
    stamp_of "$tool" >".tools/$tool.stamp"
done
