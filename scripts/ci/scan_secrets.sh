#!/usr/bin/env bash
# Look for passwords, keys and tokens in the files and in every commit: scan_secrets.sh [FOLDER]
# Prints file, line and rule of each, never the secret itself. The report goes to REPORTS (reports/security): SARIF.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-.}
reports=${REPORTS:-reports/security}

fail() {
    echo "secrets: FAILED: $*" >&2
    exit 1
}

mkdir -p "$reports"
rm -f "$reports"/secrets-*.sarif
scripts/local/ensure_tools.sh gitleaks || fail "gitleaks cannot be had, so nothing was looked at"

found=
# scan KIND WHERE: 0 is clean, 2 has secrets, anything else looked at nothing.
scan() {
    local status=0
    .tools/gitleaks "$1" "$2" --config .gitleaks.toml --no-banner --log-level error --verbose --redact --exit-code 2 \
        --report-format sarif --report-path "$reports/secrets-$1.sarif" || status=$?
    case $status in
        0) ;;
        2) found=yes ;;
        *) fail "gitleaks $1 $2 exited with $status" ;;
    esac
}

scan dir "$folder"
if git -C "$folder" rev-parse --git-dir >/dev/null 2>&1; then
    # What was committed once is known, whether it is still there or not.
    if [ "$(git -C "$folder" rev-parse --is-shallow-repository)" = true ]; then
        fail "this clone has not the whole history; fetch it all (fetch-depth: 0)"
    fi
    scan git "$folder"
fi
[ -z "$found" ] || fail "take it out, and change it: what was committed is no secret any more"
echo "secrets: none found"
