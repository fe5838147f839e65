#!/usr/bin/env bash
# Pin all requirements with hashes; the larger set constrains the others, so that all eleven sets have the same versions.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Extras stay in the names: pip before 24 treats `coverage[toml]` as unpinned if only `coverage` is pinned and a newer version exists.
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links \
        --custom-compile-command "make lock" "$@"
}

compile requirements-dev.in -o requirements-dev.txt
compile requirements-deploy.in -c requirements-dev.txt -o requirements-deploy.txt
compile requirements-ops.in -c requirements-deploy.txt -o requirements-ops.txt
for set in requirements-run requirements-uv requirements-go requirements-scan docker/cluster/requirements \
    {account,transaction,autoscale,rollout}-service/requirements; do
    compile "$set.in" -c requirements-dev.txt -o "$set.txt"
done
