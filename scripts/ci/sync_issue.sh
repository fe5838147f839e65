#!/usr/bin/env bash
# Keep one GitHub issue in sync with the result of a check: sync_issue.sh LABEL TITLE FILE
# OUTCOME=success closes the open issue with this label; any other outcome opens it or replaces its text with FILE.
# Needs GH_TOKEN, GH_REPO and RUN_URL.
set -euo pipefail

label=$1 title=$2 file=$3
number=$(gh issue list --label "$label" --state open --limit 1 --json number --jq '.[0].number // empty')
if [ "$OUTCOME" = success ]; then
    [ -n "$number" ] || { echo "success, no open issue"; exit 0; }
    gh issue close "$number" --comment "Resolved: no problems in $RUN_URL"
    exit 0
fi

text=$(mktemp)
trap 'rm -f "$text"' EXIT
if [ -s "$file" ]; then
    # GitHub accepts up to 65,536 characters.
    head -c 60000 "$file" >"$text"
else
    echo "The run ended with $OUTCOME and wrote no report, so the result is unknown." >"$text"
fi
printf '\nReported by %s\n' "$RUN_URL" >>"$text"
if [ -n "$number" ]; then
    gh issue edit "$number" --body-file "$text"
else
    gh label create "$label" --force >/dev/null
    gh issue create --title "$title" --label "$label" --body-file "$text"
fi
