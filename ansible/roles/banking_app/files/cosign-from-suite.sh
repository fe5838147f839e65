#!/bin/bash
# Install Cosign from a Debian suite that has it: cosign-from-suite.sh SUITE TARGET
# apt fetches the package from the mirror that this machine uses and checks its signature; the program is taken out of
# it, because the package as such would bring that suite's own libraries.
set -euo pipefail

suite=$1
target=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# apt expands these, not the shell.
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' |
    awk '$1 !~ /-/ { print $2; exit }')
if [ -z "$mirror" ]; then
    echo "apt has no Debian mirror on this machine; put cosign 3 at $target" >&2
    exit 1
fi

mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages"
# The signature is checked as ever; only the date of sid may be past, where a mirror lags.
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg check-valid-until=no] $mirror $suite main" \
    >"$work/sources.list"
# Everything that tells apt about other suites stays out; the rest of its configuration (proxies) stays in.
options=(
    -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache"
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root
)
apt-get "${options[@]}" --quiet --quiet update
(cd "$work/packages" && apt-get "${options[@]}" --quiet --quiet download "cosign/$suite")
dpkg-deb --extract "$work"/packages/cosign_*.deb "$work/cosign"
install -D "$work/cosign/usr/bin/cosign" "$target"
