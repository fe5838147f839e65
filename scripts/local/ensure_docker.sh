#!/usr/bin/env bash
# Ensure that Docker Engine, Compose v2 and buildx are installed and running. As root on Debian and Ubuntu, the Ansible
# role docker installs what is missing; elsewhere a message lists what to install.
set -euo pipefail
cd "$(dirname "$0")/../.."

works() {
    docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 && docker buildx version >/dev/null 2>&1
}

fail() {
    echo "docker: $*" >&2
    exit 1
}

works && exit 0

# shellcheck disable=SC1091
distribution=$(. /etc/os-release 2>/dev/null && echo "${ID-} ${ID_LIKE-}")
if [ "$(id -u)" -ne 0 ]; then
    command -v docker >/dev/null && ! docker info >/dev/null 2>&1 &&
        fail "Docker Engine is not reachable for user $(id -un); start it, or add the user to the group docker"
    fail "Docker Engine with Compose v2 and buildx is required; install it (make up run as root does so on Debian and Ubuntu)"
fi
[[ $distribution == *debian* || $distribution == *ubuntu* ]] ||
    fail "Docker Engine with Compose v2 and buildx is required; automatic installation supports only Debian and Ubuntu"

echo "installing Docker with the Ansible role docker"
scripts/local/bootstrap.sh ops
log=$(mktemp)
inventory=$(mktemp)
trap 'rm -f "$log" "$inventory"' EXIT
# An inventory with this machine only.
printf '[docker_hosts]\nlocalhost ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n' >"$inventory"
if ! .venv-ops/bin/ansible-playbook ansible/playbooks/docker.yml --inventory "$inventory" >"$log" 2>&1; then
    grep -A 12 -E '^(fatal|ERROR|\[ERROR\])' "$log" | cut -c 1-400 | sed 's/^/    /' >&2 || tail -n 20 "$log" >&2
    fail "installation of Docker failed, see the output above"
fi
works || fail "Docker was installed, but is not reachable"
echo "Docker $(docker version --format '{{.Server.Version}}') and Compose $(docker compose version --short) installed"
