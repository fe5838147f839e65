#!/bin/sh
# Bring the stopped server's data to a moment, or to the last one in the archive: restore.sh check|restore [TIME];
# scripts/stack/restore.sh calls it in a container of its own. TIME is like 2026-01-31T12:00:00Z; what was committed until then
# stays. `check` tells whether it could, and changes nothing.
set -eu
what=$1
to=${2-}
# As PostgreSQL reads it.
[ -z "$to" ] || target=$(date -u -d "$to" '+%Y-%m-%d %H:%M:%S.%6N+00')
[ ! -s "$PGDATA/PG_VERSION" ] || [ "${REPLACE-}" = 1 ] || {
    echo "restore: there is a database; it goes with REPLACE=1 only" >&2
    exit 1
}
base=
for found in $(printf '%s\n' "$BACKUPS"/base/*Z | sort); do
    [ -d "$found" ] || continue
    # A backup is of use from its end on; its name is its beginning.
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
# Settings for this start only: nobody gets in before it is done, and what is done is archived, too.
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
