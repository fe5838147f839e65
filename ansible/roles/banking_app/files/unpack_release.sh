#!/bin/bash
# Unpack FOLDER/stack.tar unless it is unpacked already: unpack_release.sh FOLDER; prints `unpacked` if it changed anything.
# Unpacks in place, because containers mount the folders, and removes files that the archive no longer contains.
set -euo pipefail
cd "$1"

sum=$(sha256sum <stack.tar)
[ "$(cat .unpacked 2>/dev/null || true)" != "$sum" ] || exit 0
tar --extract --file stack.tar --no-same-owner
comm -23 <(find docker monitoring ops-page scripts -type f | LC_ALL=C sort) <(tar --list --file stack.tar | LC_ALL=C sort) |
    xargs --no-run-if-empty --delimiter='\n' rm --
echo "$sum" >.unpacked
echo unpacked
