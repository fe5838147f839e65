#!/usr/bin/env bash
# Run a command against a temporary composed stack: with_stack.sh COMMAND …
# The command gets BASE_URL and VAR_DIR of the stack; IMAGES, BUILD and other variables are those of `make up`.
set -euo pipefail
cd "$(dirname "$0")/../.."

export COMPOSE_PROJECT_NAME=bank-check-$$
export VOLUMES=1
VAR_DIR=$(mktemp -d)
BANK_PORT=$(python3 -c 'from shared.testing.ports import free_port; print(free_port(2))')
GRAFANA_PORT=$((BANK_PORT + 1))
export VAR_DIR BANK_PORT GRAFANA_PORT
export BASE_URL=http://127.0.0.1:$BANK_PORT

remove() {
    scripts/stack/down.sh >/dev/null 2>&1 || echo "with_stack: could not remove $COMPOSE_PROJECT_NAME" >&2
    rm -rf "$VAR_DIR"
}
trap remove EXIT
scripts/stack/up.sh
"$@"
