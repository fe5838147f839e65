#!/usr/bin/env bash
# Post the outcome of a rollout to Slack. Needs TARGET (staging, production), OUTCOME, COMMIT, RUN_URL and SLACK_WEBHOOK_URL.
# Without SLACK_WEBHOOK_URL nothing is posted.
set -euo pipefail

if [ -z "${SLACK_WEBHOOK_URL-}" ]; then
    echo "slack: notification skipped, SLACK_WEBHOOK_URL is not set"
    exit 0
fi
case $OUTCOME in
    success) sign=:white_check_mark: ;;
    cancelled) sign=:black_square_for_stop: ;;
    *) sign=:x: ;;
esac
message=$(jq --null-input --arg text "$sign Rollout of ${COMMIT:0:12} to $TARGET: *$OUTCOME* <$RUN_URL|the run>" '{text: $text}')
# The URL is a secret, so it is passed by a file descriptor: command lines are visible to all users.
curl --silent --show-error --fail --max-time 20 --retry 3 --header 'Content-Type: application/json' --data "$message" \
    --config <(printf 'url = "%s"\n' "$SLACK_WEBHOOK_URL") --output /dev/null
echo "slack: notified"
