#!/bin/sh
# Archive a completed segment of the write-ahead log: archive.sh PATH NAME (PostgreSQL's archive_command).
# Writes atomically and syncs to disk, because PostgreSQL then removes its segment.
set -eu
folder=$BACKUPS/wal
target=$folder/$2.gz
mkdir -p "$folder"
if [ -f "$target" ]; then
    # After a crash PostgreSQL archives the same segment again; another file of that name belongs to another cluster.
    gzip -dc "$target" | cmp -s - "$1"
    exit
fi
gzip -1 <"$1" >"$target.tmp"
sync "$target.tmp"
mv "$target.tmp" "$target"
sync "$folder"
