#!/usr/bin/env bash
# Run Ansible against the hosts of TARGET (staging, production) over SSH: run_playbook.sh
# ROLLBACK=true runs rollback.yml, everything else deploy.yml with reports/release/release.json where there is one.
# SSH_PRIVATE_KEY and SSH_KNOWN_HOSTS are contents, INVENTORY is one as well; VERSION, WEIGHTS, PROMOTE are handed on.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "deploy: FAILED: $*" >&2
    exit 1
}

for name in TARGET INVENTORY SSH_PRIVATE_KEY SSH_KNOWN_HOSTS; do
    [ -n "${!name-}" ] || fail "$name is not set; on GitHub it belongs to the environment"
done

scripts/bootstrap.sh deploy
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 077
printf '%s\n' "$SSH_PRIVATE_KEY" >"$work/key"
printf '%s\n' "$SSH_KNOWN_HOSTS" >"$work/known_hosts"
printf '%s\n' "$INVENTORY" >"$work/hosts.ini"
# The rest of the process tree has no use for them.
unset SSH_PRIVATE_KEY SSH_KNOWN_HOSTS

playbook=deploy
[ "${ROLLBACK-}" != true ] || playbook=rollback
# JSON, so that no value is taken for anything but a value.
jq --null-input --arg version "${VERSION-}" --arg weights "${WEIGHTS-}" --argjson promote "${PROMOTE:-false}" \
    '{rollout_version: $version, rollout_promote: $promote}
     + if $weights == "" then {} else {rollout_weights: ($weights | split(",") | map(tonumber))} end' >"$work/rollout.json"
arguments=(--inventory "$work/hosts.ini" --limit "$TARGET" --private-key "$work/key" --extra-vars "@$work/rollout.json")
[ ! -f reports/release/release.json ] || arguments+=(--extra-vars "@reports/release/release.json")

# Hosts that are not in the list are refused, whoever answers.
export ANSIBLE_HOST_KEY_CHECKING=True
export ANSIBLE_SSH_ARGS="-o UserKnownHostsFile=$work/known_hosts -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
echo "deploy: $playbook.yml on $TARGET"
.venv-ops/bin/ansible-playbook "ansible/playbooks/$playbook.yml" "${arguments[@]}"
