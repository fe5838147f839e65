#!/usr/bin/env bash
# Pin the base images in .env by the digests that their registries serve now; needs registries in reach.
set -euo pipefail
cd "$(dirname "$0")/../.."

new=$(mktemp)
trap 'rm -f "$new"' EXIT
while IFS= read -r line; do
    # The services' own images are made here and have their digest from the push.
    if [[ $line =~ ^([A-Z_]+_IMAGE)=([^@]+)(@.*)?$ ]] && [[ $line != *_SERVICE_*IMAGE=* ]]; then
        image=${BASH_REMATCH[2]}
        digest=$(docker buildx imagetools inspect "$image" | awk '/^Digest:/ && !n++ { print $2 }') || {
            echo "pin-images: no registry answers for $image; .env is as it was" >&2
            exit 1
        }
        line=${BASH_REMATCH[1]}=$image@$digest
        echo "$line"
    fi
    printf '%s\n' "$line" >>"$new"
done <.env
cat "$new" >.env
