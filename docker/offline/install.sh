#!/bin/sh
# Install Debian packages in an image and leave nothing behind but them.
set -eu
apt-get -qq update
apt-get -qq install --yes --no-install-recommends "$@" >/tmp/log 2>&1 || {
    cat /tmp/log
    exit 1
}
rm -rf /tmp/log /var/log/apt /var/log/*.log /var/cache/debconf/*-old /var/lib/dpkg/*-old
