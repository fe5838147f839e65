#!/bin/sh
# Restore the data of the stopped server to a point in time or the end of the archive: restore.sh check|restore [TIME]
# Called by scripts/stack/restore.sh in a separate container. TIME is like 2026-01-31T12:00:00Z; later transactions are
# lost. `check` only checks whether a restore is possible.
set -eu
what=$1
to=${2-}
# In PostgreSQL's format.
[ -z "$to" ] || target=$(date -u -d "$to" '+%Y-%m-%d %H:%M:%S.%6N+00')
[ ! -s "$PGDATA/PG_VERSION" ] || [ "${REPLACE-}" = 1 ] || {
    echo "restore: there is a database already; REPLACE=1 overwrites it" >&2
    exit 1
}
base=
for found in $(printf '%s\n' "$BACKUPS"/base/*Z | sort); do
    [ -d "$found" ] || continue
    # A backup can only be restored to times after its end; its name is its start.
    done_at=$(date -u -r "$found/backup_manifest" +%s)
    [ -n "$to" ] && [ "$done_at" -gt "$(date -u -d "$to" +%s)" ] || base=$found
done
[ -n "$base" ] || {
    echo "restore: there is no backup ${to:+from before $to }in $BACKUPS/base" >&2
    exit 1
}
[ "$what" != check ] || exit 0
echo "restore: from the backup of ${base##*/} to ${to:-the last transaction in the archive}"
find "$PGDATA" -mindepth 1 -delete
cp -a "$base/." "$PGDATA/"
chmod 0700 "$PGDATA"
touch "$PGDATA/recovery.signal"
# Settings of the recovery only: no client can connect, and the new timeline is archived.
options="-c listen_addresses= -c hot_standby=off -c max_connections=300 -c archive_mode=on"
options="$options -c archive_command='/setup/archive.sh %p %f' -c recovery_target_action=promote"
options="$options -c restore_command='gzip -dc $BACKUPS/wal/%f.gz >%p'"
[ -z "$to" ] || options="$options -c recovery_target_time='$target'"
pg_ctl --pgdata "$PGDATA" --options "$options" --no-wait --log /tmp/restore.log start >/dev/null
sleep 1
until pg_isready --quiet; do
    pg_ctl --pgdata "$PGDATA" status >/dev/null || {
        tail -n 20 /tmp/restore.log >&2
        exit 1
    }
    sleep 0.5
done
sed -n 's/^.*LOG: *\(last completed transaction was at.*\)$/restore: \1/p' /tmp/restore.log
pg_ctl --pgdata "$PGDATA" --wait --timeout 300 --mode fast stop >/dev/null
