#!/usr/bin/env bash
# Install Debian packages whose programs are missing: ensure_packages.sh nginx postgresql nats-server make
# Requires root and apt-get; otherwise a message lists what to install. In CI (CI=true) it uses sudo, which runners allow
# without a password. Their services are neither started nor enabled.
set -euo pipefail

present() {
    case $1 in
        postgresql) compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null ;;
        openssh-server) PATH="$PATH:/usr/sbin" command -v sshd >/dev/null ;;
        chromium) command -v chromium chromium-browser google-chrome >/dev/null ;;
        graphviz) command -v dot >/dev/null ;;
        fonts-dejavu-core) [ -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ] ;;
        qemu-user-static) [ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || [ -e /proc/sys/fs/binfmt_misc/qemu-x86_64 ] ;;
        python*-venv) "${1%-venv}" -c 'import ensurepip' 2>/dev/null ;;
        *) PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1" >/dev/null ;;
    esac
}

missing=()
for package in "$@"; do
    present "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] && [ "${CI-}" = true ] && sudo -n true 2>/dev/null; then
    exec sudo -n "$0" "${missing[@]}"
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing packages: ${missing[*]}; install them (Debian, Ubuntu: apt-get install ${missing[*]})" >&2
    exit 1
fi

echo "installing ${missing[*]} (apt-get)" >&2
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
created_policy=
clean_up() {
    rm -f "$log"
    [ -z "$created_policy" ] || rm -f "$policy"
}
trap clean_up EXIT

# Maintainer scripts of Debian packages start no service if this policy exits with 101; an existing policy is kept.
if [ ! -e "$policy" ]; then
    created_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "${missing[@]}" >>"$log" 2>&1 </dev/null
}

# On a new machine the package lists are empty, on an old one they name files that no longer exist.
if ! install && ! { apt-get update -q -o DPkg::Lock::Timeout=300 >>"$log" 2>&1 && install; }; then
    tail -n 5 "$log" | sed 's/^/    /' >&2
    echo "apt-get could not install ${missing[*]}, see the output above" >&2
    exit 1
fi

if command -v systemctl >/dev/null; then
    for service in "${missing[@]}"; do
        systemctl disable "$service.service" >/dev/null 2>&1 || true
    done
fi
