#!/usr/bin/env bash
# Verify the ledger of the running stack: the local one (VAR_DIR) or, if it does not run, the composed one. ROOTS names
# files with roots that were kept. PUBLIC_KEYS are those that were announced; by default those of the stack's own key.
set -euo pipefail
cd "$(dirname "$0")/../.."
var=${VAR_DIR:-var}
python=.venv/bin/python
arguments=()
for file in ${ROOTS-}; do
    arguments+=(--roots "$file")
done
if [ -e "$var/run/stack.json" ]; then
    ledger=$var/data/accounts.db signing_key=$var/secrets/ledger-key.pem
    origin=${LEDGER_ORIGIN:-bank.example/ledger}
else
    # shellcheck source=scripts/stack/stack_env.sh
    . scripts/stack/stack_env.sh
    ledger=$(mktemp) signing_key=$VAR_DIR/docker/secrets/ledger_signing_key origin=$LEDGER_ORIGIN
    trap 'rm -f "$ledger"' EXIT
    scripts/ledger/export_stack.sh >"$ledger"
fi
for key in ${PUBLIC_KEYS:-$(PYTHONPATH=account-service:. $python -m app.public_keys "$origin" <"$signing_key")}; do
    arguments+=(--key "$key")
done
$python scripts/ledger/verify_ledger.py "$ledger" "${arguments[@]}"
