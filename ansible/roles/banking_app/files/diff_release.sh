#!/bin/bash
# Print how the files of a release differ from the deployed ones: diff_release.sh DEPLOYED RELEASE --unified|--brief
set -euo pipefail
deployed=$1 release=$2
cd "$release"

for name in docker-compose.yml docker monitoring ops-page scripts; do
    diff --recursive --new-file --exclude=__pycache__ "$3" "$deployed/$name" "$release/$name" || [ $? -eq 1 ]
done | sed "s|$release/|release/|g"
