#!/bin/bash
# Unpack the stack's tree beside it: unpack.sh FOLDER; says `unpacked` where that was not done yet.
# In place, because containers have mounted the folders. What the tree has no more goes.
set -euo pipefail
cd "$1"

sum=$(sha256sum <stack.tar)
[ "$(cat .unpacked 2>/dev/null || true)" != "$sum" ] || exit 0
tar --extract --file stack.tar --no-same-owner
comm -23 <(find docker monitoring ops-page scripts -type f | LC_ALL=C sort) <(tar --list --file stack.tar | LC_ALL=C sort) |
    xargs --no-run-if-empty --delimiter='\n' rm --
echo "$sum" >.unpacked
echo unpacked
