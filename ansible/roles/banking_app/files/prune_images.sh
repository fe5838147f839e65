#!/bin/bash
# Remove other images of the given repositories: prune_images.sh REPOSITORY@DIGEST …
# The given images and images in use are kept. Prints the removed images.
set -euo pipefail

for repository in $(printf '%s\n' "${@%@*}" | sort -u); do
    docker image ls --no-trunc --digests --format '{{.Repository}}@{{.Digest}}' "$repository" | sort -u | while read -r image; do
        case " $* " in
            *" $image "*) continue ;;
        esac
        [[ $image == *@sha256:* ]] || continue
        if docker image rm "$image" >/dev/null 2>&1; then echo "$image"; fi
    done
done
