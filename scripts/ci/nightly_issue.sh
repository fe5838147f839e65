#!/usr/bin/env bash
# Open or update the issue about failed nightly tests, and close it after a successful run: nightly_issue.sh FOLDER
# FOLDER contains a file for each failed part. Needs NEEDS (the jobs as JSON), RUN_URL, GH_TOKEN and GH_REPO.
set -euo pipefail
cd "$(dirname "$0")/../.."

text=$(mktemp)
trap 'rm -f "$text"' EXIT
{
    echo "The nightly tests failed. The commands below reproduce the failures with their seeds or examples."
    echo
    jq --raw-output 'to_entries[] | "- \(.key): \(.value.result)"' <<<"$NEEDS"
    while IFS= read -r file; do
        # Indented, so that it is not rendered as Markdown.
        printf '\n%s\n\n' "$(basename "$file" .txt)"
        head -c 8000 "$file" | sed 's/^/    /'
    done < <(find "$1" -name '*.txt' 2>/dev/null | sort)
} >"$text"
OUTCOME=$(jq --raw-output 'if all(.[]; .result == "success") then "success" else "failure" end' <<<"$NEEDS")
export OUTCOME
scripts/ci/sync_issue.sh nightly "Nightly tests failed" "$text"
