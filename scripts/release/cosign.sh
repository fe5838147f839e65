#!/usr/bin/env bash
# Cosign: cosign.sh generate-key-pair, sign … Where this machine has none it is taken from a Debian suite that has it, or
# built as .ci/tools/cosign pins it.
set -euo pipefail

root=$(dirname "$(dirname "$(realpath "$0")")")
PATH=$PATH:$root/.venv-ops/bin:$root/.tools
command -v cosign >/dev/null ||
    "$root/ansible/roles/banking_app/files/cosign-from-suite.sh" sid "$root/.venv-ops/bin/cosign" ||
    "$root/scripts/local/ensure_tools.sh" cosign
exec cosign "$@"
