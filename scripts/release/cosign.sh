#!/usr/bin/env bash
# Run Cosign: cosign.sh generate-key-pair, sign … If it is not installed, it is installed from another Debian suite or built
# from the version that .ci/tools/cosign pins.
set -euo pipefail

root=$(realpath "$(dirname "$(realpath "$0")")/../..")
PATH=$PATH:$root/.venv-ops/bin:$root/.tools
command -v cosign >/dev/null ||
    "$root/ansible/roles/banking_app/files/install_cosign_package.sh" sid "$root/.venv-ops/bin/cosign" ||
    "$root/scripts/local/ensure_tools.sh" cosign
exec cosign "$@"
