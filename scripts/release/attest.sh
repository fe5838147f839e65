#!/usr/bin/env bash
# Attest SBOM (CycloneDX) and provenance (SLSA) of the images of a release: attest.sh FILE FOLDER
# FILE is a release file of scripts/release/release.sh, which calls this script; the documents are kept in FOLDER.
# COSIGN_KEY is the signing key, COSIGN_PASSWORD its password; KEYLESS=true signs with the identity of the workflow.
# REPOSITORY is the URL of the source repository. With PLATFORMS, an index has an SBOM of each platform's image.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "attest: FAILED: $*" >&2
    exit 1
}

[ $# -eq 2 ] && [ -f "$1" ] && [ -d "$2" ] || fail "usage: attest.sh FILE FOLDER"
[ -n "${REPOSITORY-}" ] || fail "set REPOSITORY=https://… to the source repository of the images"
file=$1
folder=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scripts/local/ensure_tools.sh syft || fail "syft is not available, so no SBOM can be generated"

export COSIGN_PASSWORD=${COSIGN_PASSWORD-}
# Listing the files of packages would make the SBOM twenty times as large.
export SYFT_FILE_METADATA_SELECTION=none SYFT_CHECK_FOR_APP_UPDATE=false
signs=()
if [ "${KEYLESS-}" != true ]; then
    scripts/release/cosign.sh signing-config create --out "$work/signing.json" >/dev/null
    signs=(--key "$COSIGN_KEY" --signing-config "$work/signing.json")
fi

# attest TYPE DOCUMENT IMAGE: sign the document as an attestation of the image.
attest() {
    if ! scripts/release/cosign.sh attest --yes "${signs[@]}" --type "$1" --predicate "$2" "$3" >"$work/log" 2>&1; then
        tail -n 8 "$work/log" | cut -c 1-200 | sed 's/^/    /' >&2
        fail "could not attest $3 ($1), see the output above"
    fi
}

version=$(jq --exit-status --raw-output .banking_app_release.version "$file")
commit=$(jq --exit-status --raw-output .banking_app_release.commit "$file")
while IFS=$'\t' read -r service image; do
    python3 -m scripts.release.provenance "$service" "$version" "$commit" >"$folder/$service.provenance.json"
    attest slsaprovenance1 "$folder/$service.provenance.json" "$image"
    while read -r suffix; do
        document=$folder/$service${suffix:+-$suffix}.cdx.json
        .tools/syft scan --quiet "docker:${suffix:+${image%@*}:$version-}${suffix:-$image}" --output "cyclonedx-json=$document"
        attest cyclonedx "$document" "$image"
        jq --raw-output --arg image "$image${suffix:+ ($suffix)}" \
            '"attested \($image): \([.components[] | select(.type == "library")] | length) packages"' "$document"
    done < <(tr , '\n' <<<"${PLATFORMS-}" | sed 's|.*/||')
done < <(jq --raw-output '.banking_app_release.images | to_entries[] | "\(.key)\t\(.value)"' "$file")
