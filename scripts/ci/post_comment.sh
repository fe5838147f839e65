#!/usr/bin/env bash
# Post FILE as a comment on the pull request, or update the earlier comment: post_comment.sh FILE
# The first line of the file is the marker that identifies the comment. Needs GH_TOKEN, GH_REPO and PULL_REQUEST.
set -euo pipefail

file=$1
marker=$(head -n 1 "$file")
# Comments of users with the same marker are never changed.
existing=$(gh api --paginate "repos/$GH_REPO/issues/$PULL_REQUEST/comments" |
    jq --slurp --raw-output --arg marker "$marker" \
        '[.[][] | select(.user.type == "Bot" and (.body | startswith($marker)))][0].id // empty')
if [ -n "$existing" ]; then
    gh api --method PATCH "repos/$GH_REPO/issues/comments/$existing" --field "body=@$file" --silent
    echo "comment $existing updated"
else
    gh api --method POST "repos/$GH_REPO/issues/$PULL_REQUEST/comments" --field "body=@$file" --silent
    echo "comment created"
fi
