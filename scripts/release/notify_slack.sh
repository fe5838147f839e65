#!/usr/bin/env bash
# Tell Slack how a rollout ended: TARGET (staging, production), OUTCOME, COMMIT, RUN_URL; SLACK_WEBHOOK_URL is where.
# Without the address it says so and is content: nobody asked to be told.
set -euo pipefail

if [ -z "${SLACK_WEBHOOK_URL-}" ]; then
    echo "slack: nobody is told: SLACK_WEBHOOK_URL is not set"
    exit 0
fi
case $OUTCOME in
    success) sign=:white_check_mark: ;;
    cancelled) sign=:black_square_for_stop: ;;
    *) sign=:x: ;;
esac
message=$(jq --null-input --arg text "$sign Rollout of ${COMMIT:0:12} to $TARGET: *$OUTCOME* <$RUN_URL|the run>" '{text: $text}')
# The address is a secret: it goes by a file descriptor, where no list of processes shows it.
curl --silent --show-error --fail --max-time 20 --retry 3 --header 'Content-Type: application/json' --data "$message" \
    --config <(printf 'url = "%s"\n' "$SLACK_WEBHOOK_URL") --output /dev/null
echo "slack: told"
