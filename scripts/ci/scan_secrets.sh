#!/usr/bin/env bash
# Scan the files and all commits for passwords, keys and tokens: scan_secrets.sh [FOLDER]
# Prints file, line and rule of each finding, with the secret redacted. SARIF reports are written to REPORTS (default
# reports/security).
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
scripts/local/ensure_tools.sh gitleaks || fail "gitleaks is not available, nothing was scanned"

found=
# scan COMMAND FOLDER: exit code 0 means no findings, 2 findings, anything else an error.
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
    # A secret in any commit is compromised, even if a later commit removes it.
    if [ "$(git -C "$folder" rev-parse --is-shallow-repository)" = true ]; then
        fail "this is a shallow clone; fetch the whole history (fetch-depth: 0)"
    fi
    scan git "$folder"
fi
[ -z "$found" ] || fail "remove the secret and revoke it: whatever was committed is compromised"
echo "secrets: none found"
