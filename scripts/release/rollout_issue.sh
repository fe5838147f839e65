#!/usr/bin/env bash
# Open an issue about a rollout that failed, or add to the open one. NEEDS (the jobs as JSON), COMMIT and RUN_URL tell of
# it; GH_TOKEN and GH_REPO say where.
set -euo pipefail
cd "$(dirname "$0")/../.."

text=$(mktemp)
trap 'rm -f "$text"' EXIT
{
    echo "The rollout of $COMMIT did not end well:"
    echo
    jq --raw-output 'to_entries[] | "- \(.key): \(.value.result)"' <<<"$NEEDS"
    echo
    echo "Customers are on the release before, unless a step above says otherwise; docs/ci.md says what to look at."
} >"$text"
OUTCOME=failure scripts/ci/sync_issue.sh failed-rollout "A rollout failed" "$text"
