#!/bin/bash
# Install Docker CLI plugins (compose, buildx) from another Debian suite: plugins-from-suite.sh SUITE PLUGIN …
# Packages are fetched by apt from the mirror that this machine uses, signatures checked, and only the plugins taken
# out of them: as packages they would ask for that suite's own engine.
set -euo pipefail

suite=$1
shift
target=/usr/libexec/docker/cli-plugins
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# apt expands these, not the shell.
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' |
    awk '$1 !~ /-/ { print $2; exit }')
if [ -z "$mirror" ]; then
    echo "apt has no Debian mirror on this machine" >&2
    exit 1
fi

mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
# Everything that tells apt about other suites stays out; the rest of its configuration (proxies) stays in.
options=(
    -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache"
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root
)
apt-get "${options[@]}" --quiet --quiet update
for plugin in "$@"; do
    (cd "$work/packages" && apt-get "${options[@]}" --quiet --quiet download "docker-$plugin/$suite")
    dpkg-deb --extract "$work/packages/docker-${plugin}_"*.deb "$work/$plugin"
    install -D --target-directory "$target" "$work/$plugin/usr/libexec/docker/cli-plugins/docker-$plugin"
done
