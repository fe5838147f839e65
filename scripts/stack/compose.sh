#!/usr/bin/env bash
# Run `docker compose` with the variables of the running stack: scripts/stack/compose.sh ps, exec nginx …, up --scale …
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh
exec docker compose "$@"
