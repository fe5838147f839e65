#!/usr/bin/env bash
# Move a draft to ready, once its gate is green. GH_TOKEN, GH_REPO, PULL_REQUEST and COMMIT say which; the label
# keep-draft holds it back, and so does a commit that came meanwhile.
set -euo pipefail

state=$(gh pr view "$PULL_REQUEST" --json isDraft,headRefOid,labels)
if [ "$(jq --raw-output .headRefOid <<<"$state")" != "$COMMIT" ]; then
    echo "there is a newer commit than $COMMIT; its own run decides"
elif jq --exit-status '.isDraft | not' <<<"$state" >/dev/null; then
    echo "it is ready already"
elif jq --exit-status 'any(.labels[]; .name == "keep-draft")' <<<"$state" >/dev/null; then
    echo "it stays a draft: keep-draft"
else
    gh pr ready "$PULL_REQUEST"
fi
