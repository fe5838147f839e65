#!/usr/bin/env bash
# Mark a draft pull request as ready for review after a successful gate. Needs GH_TOKEN, GH_REPO, PULL_REQUEST and COMMIT.
# The label keep-draft prevents it, and so does a newer commit.
set -euo pipefail

state=$(gh pr view "$PULL_REQUEST" --json isDraft,headRefOid,labels)
if [ "$(jq --raw-output .headRefOid <<<"$state")" != "$COMMIT" ]; then
    echo "not changed: $COMMIT is not the latest commit"
elif jq --exit-status '.isDraft | not' <<<"$state" >/dev/null; then
    echo "not changed: already ready for review"
elif jq --exit-status 'any(.labels[]; .name == "keep-draft")' <<<"$state" >/dev/null; then
    echo "not changed: labelled keep-draft"
else
    gh pr ready "$PULL_REQUEST"
fi
