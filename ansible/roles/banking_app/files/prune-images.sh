#!/bin/bash
# Remove the images of earlier releases: prune-images.sh REPOSITORY@DIGEST …
# Those that are named stay, and so does what a container uses and what is no image of these repositories. Prints what went.
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
