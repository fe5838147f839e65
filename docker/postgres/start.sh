#!/bin/sh
# Start the server as its image does: start.sh postgres …; its key, which PostgreSQL wants to see closed, comes first.
set -eu
if [ -f /run/secrets/postgres_key ]; then
    install -m 0600 /run/secrets/postgres_key /run/postgresql/server.key
fi
exec docker-entrypoint.sh "$@"
