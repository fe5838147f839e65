#!/usr/bin/env bash
# Cosign, taken from a Debian suite that has it where this machine has none: cosign.sh generate-key-pair, sign …
set -euo pipefail

root=$(dirname "$(dirname "$(realpath "$0")")")
PATH=$PATH:$root/.venv-ops/bin
command -v cosign >/dev/null ||
    "$root/ansible/roles/banking_app/files/cosign-from-suite.sh" sid "$root/.venv-ops/bin/cosign"
exec cosign "$@"
