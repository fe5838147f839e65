#!/usr/bin/env bash
# Take a base backup of the databases of the running stack, which archives its write-ahead logs continuously. BACKUPS_KEPT
# in .env is the number of backups that are kept.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh
docker compose exec -T postgres /setup/backup.sh "$BACKUPS_KEPT"
