#!/usr/bin/env bash
# See that Docker, Compose v2 and buildx are there and answer. As root on Debian and Ubuntu what is missing is
# installed by the project's Ansible role; elsewhere one line says what to install.
set -euo pipefail
cd "$(dirname "$0")/../.."

answers() {
    docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1
}

fail() {
    echo "docker: $*" >&2
    exit 1
}

answers && exit 0

# shellcheck disable=SC1091
distribution=$(. /etc/os-release 2>/dev/null && echo "${ID-} ${ID_LIKE-}")
if [ "$(id -u)" -ne 0 ]; then
    command -v docker >/dev/null && ! docker info >/dev/null 2>&1 &&
        fail "the engine does not answer $(id -un); start it, or join the group docker"
    fail "Docker Engine with Compose v2 and buildx is needed; install it (as root, make up does so on Debian and Ubuntu)"
fi
[[ $distribution == *debian* || $distribution == *ubuntu* ]] ||
    fail "install Docker Engine with the plugins Compose v2 and buildx; this is neither Debian nor Ubuntu"

echo "Docker is not complete here; the Ansible role docker installs it"
scripts/local/bootstrap.sh ops
log=$(mktemp)
inventory=$(mktemp)
trap 'rm -f "$log" "$inventory"' EXIT
# This machine, whatever the inventory says.
printf '[docker_hosts]\nlocalhost ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n' >"$inventory"
if ! .venv-ops/bin/ansible-playbook ansible/playbooks/docker.yml --inventory "$inventory" >"$log" 2>&1; then
    grep -A 12 -E '^(fatal|ERROR|\[ERROR\])' "$log" | cut -c 1-400 | sed 's/^/    /' >&2 || tail -n 20 "$log" >&2
    fail "the role could not install Docker; the lines above say why"
fi
answers || fail "installed, but it does not answer"
echo "Docker $(docker version --format '{{.Server.Version}}'), Compose $(docker compose version --short) are there"
