#!/bin/sh
# Start the Docker Engine of a host of the lab: start-host SOCKET
set -eu
for folder in /sys /sys/fs/cgroup /sys/fs/cgroup/*; do
    mount -o remount,bind,rw "$folder" 2>/dev/null || true
done
# A kernel may support only one of the two variants.
iptables --table nat --list --numeric >/dev/null 2>&1 || update-alternatives --quiet --set iptables /usr/sbin/iptables-legacy
# Left behind by a host that lost power.
rm -f /run/docker.pid /run/docker/containerd/containerd.pid "$1"
exec dockerd --host "unix://$1" --log-level warn
