#!/bin/sh
# Keep a finished segment of the write-ahead log beside the backups: archive.sh PATH NAME (PostgreSQL's archive_command).
# Whole or not at all, and on disk before PostgreSQL may forget its own.
set -eu
folder=$BACKUPS/wal
target=$folder/$2.gz
mkdir -p "$folder"
if [ -f "$target" ]; then
    # Again after a crash between the two is the same file; another one of that name is somebody else's.
    gzip -dc "$target" | cmp -s - "$1"
    exit
fi
gzip -1 <"$1" >"$target.half"
sync "$target.half"
mv "$target.half" "$target"
sync "$folder"
