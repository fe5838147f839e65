#!/usr/bin/env bash
# Wait until the CI run of this commit has completed, and fail unless it succeeded: COMMIT=… require_green_ci.sh
# Needs GH_TOKEN and GH_REPO. CI_TIMEOUT_SECONDS (2400) is the timeout and CI_POLL_SECONDS (15) the polling interval, in seconds.
set -euo pipefail

deadline=$((SECONDS + ${CI_TIMEOUT_SECONDS:-2400}))
while true; do
    # Only runs of pushes: a pull request is tested as a merge commit with a different tree.
    run=$(gh run list --workflow ci.yml --commit "$COMMIT" --event push --limit 1 --json status,conclusion,url --jq '.[0] // {}')
    status=$(jq --raw-output '.status // "not started"' <<<"$run")
    [ "$status" != completed ] || break
    if [ "$SECONDS" -ge "$deadline" ]; then
        echo "ci: FAILED: CI of $COMMIT is $status after ${CI_TIMEOUT_SECONDS:-2400} s" >&2
        exit 1
    fi
    sleep "${CI_POLL_SECONDS:-15}"
done
conclusion=$(jq --raw-output .conclusion <<<"$run")
if [ "$conclusion" != success ]; then
    echo "ci: FAILED: CI of $COMMIT ended with $conclusion: $(jq --raw-output .url <<<"$run")" >&2
    exit 1
fi
echo "ci: green for $COMMIT"
