#!/usr/bin/env bash
# Pin the base images in .env by the current digests of their tags; requires access to their registries.
set -euo pipefail
cd "$(dirname "$0")/../.."

new=$(mktemp)
trap 'rm -f "$new"' EXIT
while IFS= read -r line; do
    # Service images are built by this project and get their digest when they are pushed.
    if [[ $line =~ ^([A-Z_]+_IMAGE)=([^@]+)(@.*)?$ ]] && [[ $line != *_SERVICE_*IMAGE=* ]]; then
        image=${BASH_REMATCH[2]}
        digest=$(docker buildx imagetools inspect "$image" | awk '/^Digest:/ && !n++ { print $2 }') || {
            echo "pin-images: cannot read the digest of $image from its registry; .env is unchanged" >&2
            exit 1
        }
        line=${BASH_REMATCH[1]}=$image@$digest
        echo "$line"
    fi
    printf '%s\n' "$line" >>"$new"
done <.env
cat "$new" >.env
