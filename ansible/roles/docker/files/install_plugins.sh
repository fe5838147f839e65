#!/bin/bash
# Install Docker CLI plugins (compose, buildx) from another Debian suite: install_plugins.sh SUITE PLUGIN …
# apt downloads the packages from this machine's mirror and verifies their signatures; this script verifies their checksums,
# which are pinned here or in PLUGIN_PACKAGES="compose=VERSION=SHA256 …". Only the plugins are extracted, because installing
# the packages would upgrade the engine.
set -euo pipefail

suite=$1
shift
target=/usr/libexec/docker/cli-plugins
# From the signed index of trixie, 2026-11-27.
declare -A versions=([compose]=2.26.1-4 [buildx]=0.13.1+ds1-3) pinned=(
    [compose/2.26.1-4/amd64]=47681197cb2b1ab88206b42a1a92fc75f50d9530a6322d03494a473eed0408ea
    [compose/2.26.1-4/arm64]=bbafaa666f3e7fa00ad36f2a8bab889f1c791ca8743d674e7267a3d07203869c
    [buildx/0.13.1+ds1-3/amd64]=fcf8c48204d1603c8f209451d7827eb91bf30759578baf7704e9e1a87e5f1d7f
    [buildx/0.13.1+ds1-3/arm64]=6cf361ab892b55753b728adcbd1a99f0616711df853dba64a5297a4a676d96b0
)
architecture=$(dpkg --print-architecture)
for given in ${PLUGIN_PACKAGES-}; do
    IFS='=' read -r plugin version sha256 <<<"$given"
    versions[$plugin]=$version
    pinned[$plugin/$version/$architecture]=$sha256
done
fail() {
    echo "docker: $*; set version and sha256 in docker_plugin_packages, or install the plugins manually" >&2
    exit 1
}
for plugin in "$@"; do
    package=$plugin/${versions[$plugin]-}/$architecture
    [ -n "${pinned[$package]-}" ] || fail "no checksum of $package"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# apt expands these, not the shell.
# shellcheck disable=SC2016
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' |
    awk '$1 !~ /-/ && !n++ { print $2 }')
if [ -z "$mirror" ]; then
    echo "docker: apt has no Debian mirror on this machine" >&2
    exit 1
fi

mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
# Ignore other suites, but keep the rest of apt's configuration, such as proxies.
options=(
    -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache"
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root
)
apt-get "${options[@]}" --quiet --quiet update
for plugin in "$@"; do
    version=${versions[$plugin]}
    (cd "$work/packages" && apt-get "${options[@]}" --quiet --quiet download "docker-$plugin=$version") ||
        fail "$suite no longer has docker-$plugin $version"
    echo "${pinned[$plugin/$version/$architecture]} $(echo "$work/packages/docker-${plugin}_"*.deb)" |
        sha256sum --check --status || fail "docker-$plugin $version is not the pinned package; nothing was installed"
    dpkg-deb --extract "$work/packages/docker-${plugin}_"*.deb "$work/$plugin"
    install -D --target-directory "$target" "$work/$plugin/usr/libexec/docker/cli-plugins/docker-$plugin"
done
