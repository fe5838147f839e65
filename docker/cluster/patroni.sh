#!/bin/sh
# Start Patroni with the passwords of the stack, and the TLS key with the permissions that PostgreSQL requires.
set -eu
install -m 0600 /run/secrets/postgres_key /run/postgresql/server.key
PATRONI_SUPERUSER_PASSWORD=$(cat /run/secrets/postgres_password)
PATRONI_REPLICATION_PASSWORD=$(cat /run/secrets/replication_password)
export PATRONI_SUPERUSER_PASSWORD PATRONI_REPLICATION_PASSWORD
exec patroni /etc/cluster/patroni.yml
