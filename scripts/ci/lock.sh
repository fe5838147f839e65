#!/usr/bin/env bash
# Pin every requirement with hashes; the ten sets agree with each other because the larger one constrains the rest.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Extras stay in the names: pip before 24 takes `coverage[toml]` for unpinned where only `coverage` is, as soon as a newer one is out.
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links \
        --custom-compile-command "make lock" "$@"
}

compile requirements-dev.in -o requirements-dev.txt
compile requirements-deploy.in -c requirements-dev.txt -o requirements-deploy.txt
compile requirements-ops.in -c requirements-deploy.txt -o requirements-ops.txt
for set in requirements-run requirements-uv requirements-go requirements-scan {account,transaction,autoscale,rollout}-service/requirements; do
    compile "$set.in" -c requirements-dev.txt -o "$set.txt"
done
