#!/usr/bin/env bash
# `docker compose` for the stack that `make up` started: scripts/stack/compose.sh ps, exec nginx …, up --scale …
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh
exec docker compose "$@"
