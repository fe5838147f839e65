#!/usr/bin/env bash
# Open or update the issue about a failed rollout. Needs NEEDS (the jobs as JSON), COMMIT, RUN_URL, GH_TOKEN and GH_REPO.
set -euo pipefail
cd "$(dirname "$0")/../.."

text=$(mktemp)
trap 'rm -f "$text"' EXIT
{
    if jq --exit-status 'any(.[]; .result == "failure")' <<<"$NEEDS" >/dev/null; then
        echo "The rollout of $COMMIT failed:"
    else
        echo "The rollout of $COMMIT did not reach every environment, because a newer run was queued or it was cancelled:"
    fi
    echo
    jq --raw-output 'to_entries[] | "- \(.key): \(.value.result)"' <<<"$NEEDS"
    echo
    echo "Clients are served by the previous release unless a job above reports otherwise; see docs/ci.md for the next steps."
} >"$text"
OUTCOME=failure scripts/ci/sync_issue.sh failed-rollout "Rollout failed" "$text"
