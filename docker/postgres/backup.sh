#!/bin/sh
# Take and verify a base backup of the running server, and remove old ones: backup.sh KEEP
# Called by scripts/stack/backup.sh.
set -eu
keep=$1
[ "$keep" -ge 1 ] || {
    echo "backup: BACKUPS_KEPT=$keep is invalid; keep at least 1" >&2
    exit 1
}
name=$(date -u +%Y-%m-%dT%H:%M:%SZ)
mkdir -p "$BACKUPS/base"
rm -rf "$BACKUPS"/base/*.tmp
pg_basebackup --pgdata "$BACKUPS/base/$name.tmp" --wal-method stream --checkpoint fast --no-password
pg_verifybackup --quiet "$BACKUPS/base/$name.tmp"
mv "$BACKUPS/base/$name.tmp" "$BACKUPS/base/$name"
cd "$BACKUPS/base"
# Backups are named by their start times.
for old in $(printf '%s\n' * | sort | head -n "-$keep"); do
    rm -rf "$old"
done
oldest=$(printf '%s\n' * | sort | sed -n 1p)
segment=$(sed -n 's/^START WAL LOCATION: .*(file \([0-9A-F]*\))$/\1/p' "$oldest/backup_label")
# Segments before the oldest backup are not needed.
pg_archivecleanup -x .gz "$BACKUPS/wal" "$segment"
echo "backup $name: $(du -sm "$name" | cut -f 1) MB, verified; $(printf '%s\n' * | wc -l) kept, the oldest of $oldest"
