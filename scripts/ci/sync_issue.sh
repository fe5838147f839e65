#!/usr/bin/env bash
# Keep one issue about something that is or is not well: sync_issue.sh LABEL TITLE FILE
# OUTCOME=success closes the open issue with this label, anything else opens it or brings its text up to date with FILE.
# GH_TOKEN and GH_REPO say where, RUN_URL where it was found.
set -euo pipefail

label=$1 title=$2 file=$3
number=$(gh issue list --label "$label" --state open --limit 1 --json number --jq '.[0].number // empty')
if [ "$OUTCOME" = success ]; then
    [ -n "$number" ] || { echo "nothing to tell, and no open issue"; exit 0; }
    gh issue close "$number" --comment "All clear in $RUN_URL"
    exit 0
fi

text=$(mktemp)
trap 'rm -f "$text"' EXIT
if [ -s "$file" ]; then
    # GitHub takes 65,536 characters.
    head -c 60000 "$file" >"$text"
else
    echo "It ended with $OUTCOME and left no report: nothing is known, which is not the same as clean." >"$text"
fi
printf '\nFound in %s\n' "$RUN_URL" >>"$text"
if [ -n "$number" ]; then
    gh issue edit "$number" --body-file "$text"
else
    gh label create "$label" --force >/dev/null
    gh issue create --title "$title" --label "$label" --body-file "$text"
fi
