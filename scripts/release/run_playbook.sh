#!/usr/bin/env bash
# Run Ansible against the hosts of TARGET (staging, production) over SSH: run_playbook.sh
# ROLLBACK=true runs rollback.yml; APPROVE=10 approves the step that a rollout waits for at this weight, in the name of
# APPROVER; otherwise deploy.yml deploys RELEASE (default: reports/release/release.json).
# Contents of files: INVENTORY, SSH_PRIVATE_KEY, SSH_KNOWN_HOSTS, COSIGN_PUBLIC_KEYS (the current key, then the next one),
# SETTINGS (YAML with role variables, see ansible/roles/*/defaults).
# REGISTRY and its credentials (scripts/lib/registry.sh) are the login of the hosts; without REGISTRY they use their own.
# REPOSITORY is the required source repository of the images, SYNTHETIC_TOKEN a token for this run (docs/deployment.md).
# WEIGHTS="10,50" are the canary weights in percent; PROMOTE=false removes the canary after the last step (dry run).
set -euo pipefail
cd "$(dirname "$0")/../.."

# shellcheck source=scripts/lib/registry.sh
. scripts/lib/registry.sh

fail() {
    echo "deploy: FAILED: $*" >&2
    exit 1
}

needed=(TARGET INVENTORY SSH_PRIVATE_KEY SSH_KNOWN_HOSTS)
playbook=deploy
release=${RELEASE:-reports/release/release.json}
if [ "${ROLLBACK-}" = true ]; then
    playbook=rollback
elif [ -n "${APPROVE-}" ]; then
    playbook=approve
else
    needed+=(REPOSITORY)
    [ -f "$release" ] || fail "$release does not exist; the job build creates it"
fi
for name in "${needed[@]}"; do
    [ -n "${!name-}" ] || fail "$name is not set (on GitHub: a secret or variable of the environment)"
done

scripts/local/bootstrap.sh deploy
# Build Cosign now if necessary: it takes minutes, longer than the timeout of a verification.
[ "$playbook" != deploy ] || scripts/release/cosign.sh version >/dev/null
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 077
printf '%s\n' "$SSH_PRIVATE_KEY" >"$work/key"
printf '%s\n' "$SSH_KNOWN_HOSTS" >"$work/known_hosts"
printf '%s\n' "$INVENTORY" >"$work/hosts.ini"
arguments=(--inventory "$work/hosts.ini" --limit "$TARGET" --private-key "$work/key")
if [ -n "${SETTINGS-}" ]; then
    printf '%s\n' "$SETTINGS" >"$work/settings.yml"
    arguments+=(--extra-vars "@$work/settings.yml")
fi
if [ "$playbook" = approve ]; then
    jq --null-input --arg weight "$APPROVE" --arg approver "${APPROVER-}" '$ARGS.named' >"$work/parameters.json"
    arguments+=(--extra-vars "@$work/parameters.json")
fi
if [ "$playbook" = deploy ]; then
    awk -v folder="$work" '/BEGIN PUBLIC KEY/ { file = sprintf("%s/cosign-%02d.pub", folder, ++n) } file && NF { print >file }' \
        <<<"${COSIGN_PUBLIC_KEYS-}"
    shopt -s nullglob
    registry_username='' registry_password=''
    [ -z "${REGISTRY-}" ] || find_registry_credentials
    # jq reads secrets from the environment, because command lines are visible to all users.
    export SYNTHETIC_TOKEN=${SYNTHETIC_TOKEN-} registry_username registry_password
    # Extra variables in JSON keep their types.
    jq --null-input --arg repository "$REPOSITORY" --arg promote "${PROMOTE-}" --arg weights "${WEIGHTS-}" '
        {banking_app_cosign_keys: $ARGS.positional, banking_app_repository: $repository,
         nginx_canary_promote: ($promote != "false")}
        + if env.SYNTHETIC_TOKEN != "" then {banking_app_synthetic_token: env.SYNTHETIC_TOKEN} else {} end
        + if env.registry_username == "" then {} else {banking_app_registry_username: env.registry_username,
            banking_app_registry_password: env.registry_password} end
        + if $weights == "" then {} else {nginx_canary_steps: "[\($weights)]" | fromjson} end' \
        --args "$work"/cosign-*.pub >"$work/parameters.json" || fail "WEIGHTS=$WEIGHTS is not a comma-separated list of numbers"
    arguments+=(--extra-vars "@$release" --extra-vars "@$work/parameters.json")
fi
# Child processes do not need the secrets.
unset SSH_PRIVATE_KEY SSH_KNOWN_HOSTS SETTINGS SYNTHETIC_TOKEN registry_username registry_password \
    REGISTRY_USERNAME REGISTRY_PASSWORD DOCKERHUB_USERNAME DOCKERHUB_TOKEN GHCR_TOKEN

# Reject hosts whose key is not in SSH_KNOWN_HOSTS.
export ANSIBLE_HOST_KEY_CHECKING=True
export ANSIBLE_SSH_ARGS="-o UserKnownHostsFile=$work/known_hosts -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
echo "deploy: $playbook.yml on $TARGET"
.venv-ops/bin/ansible-playbook "ansible/playbooks/$playbook.yml" "${arguments[@]}"
