#!/usr/bin/env bash
# Open or update the issue about what the nightly search found, and close it after a clean night: nightly_issue.sh FOLDER
# FOLDER has a file for each part that failed. NEEDS (the jobs as JSON), RUN_URL, GH_TOKEN and GH_REPO come from the run.
set -euo pipefail
cd "$(dirname "$0")/../.."

text=$(mktemp)
trap 'rm -f "$text"' EXIT
{
    echo "The nightly search failed. The commands below repeat what it found, with its seed or example."
    echo
    jq --raw-output 'to_entries[] | "- \(.key): \(.value.result)"' <<<"$NEEDS"
    while IFS= read -r file; do
        # Indented, so that nothing in it is Markdown.
        printf '\n%s\n\n' "$(basename "$file" .txt)"
        head -c 8000 "$file" | sed 's/^/    /'
    done < <(find "$1" -name '*.txt' 2>/dev/null | sort)
} >"$text"
OUTCOME=$(jq --raw-output 'if all(.[]; .result == "success") then "success" else "failure" end' <<<"$NEEDS")
export OUTCOME
scripts/ci/sync_issue.sh nightly "The nightly search found something" "$text"
