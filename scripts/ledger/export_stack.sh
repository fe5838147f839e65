#!/usr/bin/env bash
# Print the ledger of the composed stack for scripts/ledger/verify_ledger.py, one row a line.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck disable=SC2016  # expanded in the container
psql='PGPASSWORD=$(cat /run/secrets/postgres_password) psql -h 127.0.0.1 -U postgres -XAtq -v ON_ERROR_STOP=1 account'
exec scripts/stack/compose.sh exec -T postgres sh -c "$psql" <scripts/ledger/export.sql
