#!/usr/bin/env bash
# Release this commit as deploy.yml does: build, push, sign (scripts/release.sh), then attest (scripts/attest.sh).
# COSIGN_PRIVATE_KEY is the key itself, as a secret holds it; COSIGN_KEY names a file instead. KEYLESS=true signs with
# the identity of the workflow. Everything goes to reports/release.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ "${KEYLESS-}" = true ]; then
    unset COSIGN_KEY
elif [ -n "${COSIGN_PRIVATE_KEY-}" ]; then
    (umask 077 && printf '%s\n' "$COSIGN_PRIVATE_KEY" >"$work/cosign.key")
    export COSIGN_KEY=$work/cosign.key
fi
unset COSIGN_PRIVATE_KEY
# An input that is left empty is no version.
[ -n "${VERSION-}" ] || unset VERSION

rm -rf reports/release
scripts/release.sh reports/release/release.json
scripts/attest.sh reports/release/release.json
