#!/bin/sh
# Make the database cluster on the first start, as the official image does, then run the command.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # The arguments are a list of words, like those of the official image.
    # shellcheck disable=SC2086
    initdb --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust --auth-host=scram-sha-256 \
        ${POSTGRES_INITDB_ARGS-}
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
fi
exec "$@"
