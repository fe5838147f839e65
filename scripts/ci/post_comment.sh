#!/usr/bin/env bash
# Put FILE on the pull request as one comment, in the place of the one before: post_comment.sh FILE
# The first line of the file is the mark that it is found by. GH_TOKEN, GH_REPO, PULL_REQUEST say where.
set -euo pipefail

file=$1
marker=$(head -n 1 "$file")
# Only our own: somebody else's comment with the mark in it is not ours to change.
existing=$(gh api --paginate "repos/$GH_REPO/issues/$PULL_REQUEST/comments" |
    jq --slurp --raw-output --arg marker "$marker" \
        '[.[][] | select(.user.type == "Bot" and (.body | startswith($marker)))][0].id // empty')
if [ -n "$existing" ]; then
    gh api --method PATCH "repos/$GH_REPO/issues/comments/$existing" --field "body=@$file" --silent
    echo "comment $existing is up to date"
else
    gh api --method POST "repos/$GH_REPO/issues/$PULL_REQUEST/comments" --field "body=@$file" --silent
    echo "commented"
fi
