#!/usr/bin/env bash
# Run a part of the nightly search and keep the end of its output for the issue, if it fails: nightly.sh COMMAND …
# DRILL or SUITES names the part; what it prints has the seed or the example that shows the fault again.
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
