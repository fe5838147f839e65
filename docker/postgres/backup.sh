#!/bin/sh
# Make a backup of the running server, check it, and forget old ones: backup.sh KEEP; scripts/stack/backup.sh calls it in the container.
set -eu
keep=$1
[ "$keep" -ge 1 ] || {
    echo "backup: BACKUPS_KEPT=$keep would keep none; say 1 or more" >&2
    exit 1
}
name=$(date -u +%Y-%m-%dT%H:%M:%SZ)
mkdir -p "$BACKUPS/base"
rm -rf "$BACKUPS"/base/*.half
pg_basebackup --pgdata "$BACKUPS/base/$name.half" --wal-method stream --checkpoint fast --no-password
pg_verifybackup --quiet "$BACKUPS/base/$name.half"
mv "$BACKUPS/base/$name.half" "$BACKUPS/base/$name"
cd "$BACKUPS/base"
# Their names are times.
for old in $(printf '%s\n' * | sort | head -n "-$keep"); do
    rm -rf "$old"
done
oldest=$(printf '%s\n' * | sort | sed -n 1p)
segment=$(sed -n 's/^START WAL LOCATION: .*(file \([0-9A-F]*\))$/\1/p' "$oldest/backup_label")
# What is older than the oldest backup is of use to nobody.
pg_archivecleanup -x .gz "$BACKUPS/wal" "$segment"
echo "backup $name: $(du -sm "$name" | cut -f 1) MB, checked; $(printf '%s\n' * | wc -l) kept, the oldest of $oldest"
