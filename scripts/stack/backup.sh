#!/usr/bin/env bash
# Back up the databases of the running stack, between the write-ahead logs that it archives all the time; BACKUPS_KEPT of
# .env says how many backups stay.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh
docker compose exec -T postgres /setup/backup.sh "$BACKUPS_KEPT"
