#!/usr/bin/env bash
# Run a part of the nightly tests and, if it fails, save the end of its output for the issue: nightly.sh COMMAND …
# DRILL or SUITES names the part; the output contains the seed or example that reproduces the failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${REPORTS:-reports/nightly}
mkdir -p "$folder"
file=$folder/${DRILL:-${SUITES:-part}}.txt

if "$@" 2>&1 | tee "$file"; then
    rm "$file"
    exit
fi
end=$(tail -n 60 "$file")
printf '%s %s %s\n%s\n' "$*" "${DRILL:+DRILL=$DRILL}" "${ARGS:+ARGS=\"$ARGS\"}" "$end" >"$file"
exit 1
