#!/usr/bin/env bash
# Wait until CI of exactly this commit has ended, and fail unless it is green: COMMIT=… require_green_ci.sh
# GH_TOKEN and GH_REPO say where; PATIENCE (2400) and PAUSE (15) are seconds.
set -euo pipefail

deadline=$((SECONDS + ${PATIENCE:-2400}))
while true; do
    # Of a push to the branch: what a pull request was tested as is another tree.
    run=$(gh run list --workflow ci.yml --commit "$COMMIT" --event push --limit 1 --json status,conclusion,url --jq '.[0] // {}')
    status=$(jq --raw-output '.status // "not started"' <<<"$run")
    [ "$status" != completed ] || break
    if [ "$SECONDS" -ge "$deadline" ]; then
        echo "ci: FAILED: CI of $COMMIT is $status after ${PATIENCE:-2400} s" >&2
        exit 1
    fi
    sleep "${PAUSE:-15}"
done
conclusion=$(jq --raw-output .conclusion <<<"$run")
if [ "$conclusion" != success ]; then
    echo "ci: FAILED: CI of $COMMIT ended with $conclusion: $(jq --raw-output .url <<<"$run")" >&2
    exit 1
fi
echo "ci: green for $COMMIT"
