#!/bin/bash
# Install Cosign from another Debian suite: install_cosign_package.sh SUITE TARGET [VERSION SHA256]
# apt downloads the package from this machine's mirror and verifies its signature; this script verifies its checksum, which
# is pinned here or given. Only the program is extracted, because installing the package would upgrade libraries.
set -euo pipefail

suite=$1
target=$2
version=${3:-3.1.1-2}
sha256=${4-}
# From the signed index of sid, 2026-11-27.
declare -A pinned=(
    [3.1.1-2/amd64]=d8622ebffce1d69197288fc030ff06a4c247af5507107f85c5a878870b686b23
    [3.1.1-2/arm64]=131d3a895f48a1f1f5df708cb3423e96fee4d2135ff4ee3fc71b884290e79549
)
package=$version/$(dpkg --print-architecture)
sha256=${sha256:-${pinned[$package]-}}
if [ -z "$sha256" ]; then
    echo "cosign: no checksum of $package; install cosign 3 as $target, or set its version and sha256" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# apt expands these, not the shell.
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' |
    awk '$1 !~ /-/ && !n++ { print $2 }')
if [ -z "$mirror" ]; then
    echo "cosign: apt has no Debian mirror on this machine; install cosign 3 as $target, or set banking_app_cosign_url" \
        "to a folder with its release" >&2
    exit 1
fi

mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages"
# The release file of sid may have expired where a mirror lags; its signature is still verified.
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no] $mirror $suite main" \
    >"$work/sources.list"
# Ignore other suites, but keep the rest of apt's configuration, such as proxies.
options=(
    -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache"
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root
)
apt-get "${options[@]}" --quiet --quiet update
if ! (cd "$work/packages" && apt-get "${options[@]}" --quiet --quiet download "cosign=$version"); then
    echo "cosign: $suite no longer has $version; check its current version, and set version and sha256" >&2
    exit 1
fi
echo "$sha256 $(echo "$work"/packages/cosign_*.deb)" | sha256sum --check --status || {
    echo "cosign: the package $version is not the one with sha256 $sha256; nothing was installed" >&2
    exit 1
}
dpkg-deb --extract "$work"/packages/cosign_*.deb "$work/cosign"
install -D "$work/cosign/usr/bin/cosign" "$target"
