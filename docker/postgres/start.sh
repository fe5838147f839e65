#!/bin/sh
# Install the TLS key with the permissions that PostgreSQL requires, then run the image's entrypoint.
set -eu
if [ -f /run/secrets/postgres_key ]; then
    install -m 0600 /run/secrets/postgres_key /run/postgresql/server.key
fi
exec docker-entrypoint.sh "$@"
