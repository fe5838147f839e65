#!/usr/bin/env bash
# Run Ansible against the hosts of TARGET (staging, production) over SSH: run_playbook.sh
# ROLLBACK=true runs rollback.yml, PROMOTE=true promote.yml, else it is deploy.yml with reports/release/release.json.
# SSH_PRIVATE_KEY and SSH_KNOWN_HOSTS are contents, INVENTORY is one as well; WEIGHTS="10,50" are the canary's steps.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "deploy: FAILED: $*" >&2
    exit 1
}

for name in TARGET INVENTORY SSH_PRIVATE_KEY SSH_KNOWN_HOSTS; do
    [ -n "${!name-}" ] || fail "$name is not set; on GitHub it belongs to the environment"
done

playbook=deploy
[ "${PROMOTE-}" != true ] || playbook=promote
[ "${ROLLBACK-}" != true ] || playbook=rollback
[ -f "ansible/playbooks/$playbook.yml" ] || fail "there is no ansible/playbooks/$playbook.yml"
release=reports/release/release.json
[ "$playbook" != deploy ] || [ -f "$release" ] || fail "there is no $release; the job build makes it"
scripts/bootstrap.sh deploy
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 077
printf '%s\n' "$SSH_PRIVATE_KEY" >"$work/key"
printf '%s\n' "$SSH_KNOWN_HOSTS" >"$work/known_hosts"
printf '%s\n' "$INVENTORY" >"$work/hosts.ini"
# The rest of the process tree has no use for them.
unset SSH_PRIVATE_KEY SSH_KNOWN_HOSTS

arguments=(--inventory "$work/hosts.ini" --limit "$TARGET" --private-key "$work/key")
if [ "$playbook" = deploy ]; then
    arguments+=(--extra-vars "@$release")
    # JSON, so that no value is taken for anything but numbers.
    [ -z "${WEIGHTS-}" ] || arguments+=(--extra-vars "{\"nginx_canary_steps\": $(jq --compact-output . <<<"[$WEIGHTS]")}")
fi

# Hosts that are not in the list are refused, whoever answers.
export ANSIBLE_HOST_KEY_CHECKING=True
export ANSIBLE_SSH_ARGS="-o UserKnownHostsFile=$work/known_hosts -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
echo "deploy: $playbook.yml on $TARGET"
.venv-ops/bin/ansible-playbook "ansible/playbooks/$playbook.yml" "${arguments[@]}"
