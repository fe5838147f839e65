#!/usr/bin/env bash
# Scan dependencies and images for known vulnerabilities: cve_scan.sh [dependencies|images …] (default: both)
# dependencies: pip-audit on all pinned requirements, Trivy on the repository. images: Trivy on each image of IMAGES_TO_SCAN
# (default: all images of docker-compose.yml).
# .trivyignore.yaml accepts vulnerabilities for a limited time. Trivy does not read it, so that they stay in the reports.
# Reports are written to reports/cve, the text of the GitHub issue to issue.md there. An incomplete scan fails.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh
PATH=$PWD/.venv/bin:$PATH
reports=reports/cve
[ $# -gt 0 ] || set -- dependencies images

fail() {
    echo "cve-scan: FAILED: $*" >&2
    exit 1
}

# Exit codes of the scanners are ignored: check_vulnerabilities.py evaluates their reports.
trivy() {
    .venv-scan/bin/trivy --cache-dir "${TRIVY_CACHE:-.tools/trivy-cache}" "$@" ||
        echo "cve-scan: trivy $1 failed, see the output above" >&2
}

mkdir -p "$reports"
rm -f "$reports"/*
scripts/local/bootstrap.sh scan || fail "Trivy is not available, nothing was scanned"

check=(python scripts/check_vulnerabilities.py --body "$reports/issue.md" --trivy-version "$reports/trivy-version.json"
    --ignore .trivyignore.yaml)
for what in "$@"; do
    case $what in
        dependencies)
            mapfile -t files < <(git ls-files 'requirements-*.txt' '*/requirements.txt')
            # pip-audit exits 1 for findings and for errors, and 0 when it skipped everything: only the report is conclusive.
            pip-audit "${files[@]/#/--requirement=}" --require-hashes --disable-pip --aliases --progress-spinner off \
                --format json --output "$reports/pip-audit.json" || true
            trivy filesystem --ignorefile /dev/null --quiet --scanners vuln --list-all-pkgs --format json --output "$reports/trivy-files.json" \
                --skip-dirs '.venv*' --skip-dirs .tools --skip-dirs var --skip-dirs reports .
            check+=(--pip-audit "$reports/pip-audit.json" "${files[@]/#/--requirements=}" --trivy "$reports/trivy-files.json")
            ;;
        images)
            read -ra images <<<"${IMAGES_TO_SCAN:-$(docker compose config --images | sort -u | paste -sd ' ')}"
            [ ${#images[@]} -gt 0 ] || fail "no images to scan"
            for image in "${images[@]}"; do
                report=$reports/trivy-image-${image//[^A-Za-z0-9.-]/_}.json
                trivy image --ignorefile /dev/null --quiet --scanners vuln --list-all-pkgs --format json --output "$report" "$image"
                check+=(--trivy "$report")
            done
            ;;
        *)
            echo "usage: cve_scan.sh [dependencies|images …]" >&2
            exit 2
            ;;
    esac
done
trivy version --format json >"$reports/trivy-version.json"
"${check[@]}"
