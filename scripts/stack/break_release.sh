#!/usr/bin/env bash
# Roll a faulty release out on the running stack and watch how it is rolled back: break_release.sh FAULT
# Without FAULT it lists the faults. DAMAGE=1 allows faults that leave wrong data behind.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh
scripts/local/bootstrap.sh run
exec .venv/bin/python -m scripts.faults.break_release "$@"
