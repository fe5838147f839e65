#!/usr/bin/env bash
# Remove the configurations of account-service and transaction-service that no container uses, except those named:
# prune_revisions.sh FOLDER [REVISION …]. Prints the removed ones.
set -euo pipefail
folder=$1
shift
used=$(docker ps --all --filter label=banking.configuration --format '{{.Label "banking.configuration"}}')
for path in "$folder"/* "$folder"/.*.tmp; do
    [ -d "$path" ] || continue
    grep -qxF "${path##*/}" <<<"$used" && continue
    [[ " $* " != *" ${path##*/} "* ]] || continue
    rm -rf "$path"
    echo "$path"
done
