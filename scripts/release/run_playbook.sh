#!/usr/bin/env bash
# Run Ansible against the hosts of TARGET (staging, production) over SSH: run_playbook.sh
# ROLLBACK=true runs rollback.yml, else it is deploy.yml with RELEASE (default: reports/release/release.json).
# Contents, not names of files: INVENTORY, SSH_PRIVATE_KEY, SSH_KNOWN_HOSTS, COSIGN_PUBLIC_KEYS (the key in force, then
# the next one), SETTINGS (YAML of what ansible/roles/*/defaults may be set to). REPOSITORY is where images have to come
# from. SYNTHETIC_TOKEN is one for this run (docs/deployment.md). WEIGHTS="10,50" are the canary's steps; PROMOTE=false takes the canary back after the last one.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "deploy: FAILED: $*" >&2
    exit 1
}

needed=(TARGET INVENTORY SSH_PRIVATE_KEY SSH_KNOWN_HOSTS)
playbook=rollback
release=${RELEASE:-reports/release/release.json}
if [ "${ROLLBACK-}" != true ]; then
    playbook=deploy
    needed+=(REPOSITORY)
    [ -f "$release" ] || fail "there is no $release; the job build makes it"
fi
for name in "${needed[@]}"; do
    [ -n "${!name-}" ] || fail "$name is not set; on GitHub it belongs to the environment"
done

scripts/local/bootstrap.sh deploy
# Where it has to be built, that takes minutes, and no verification is to run into its limit of time.
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
if [ "$playbook" = deploy ]; then
    awk -v folder="$work" '/BEGIN PUBLIC KEY/ { file = sprintf("%s/cosign-%02d.pub", folder, ++n) } file && NF { print >file }' \
        <<<"${COSIGN_PUBLIC_KEYS-}"
    shopt -s nullglob
    # For jq, which reads it from the environment: what is on a command line is for all to see.
    export SYNTHETIC_TOKEN=${SYNTHETIC_TOKEN-}
    # JSON, so that no value is taken for anything but what it is.
    jq --null-input --arg repository "$REPOSITORY" --arg promote "${PROMOTE-}" --arg weights "${WEIGHTS-}" '
        {banking_app_cosign_keys: $ARGS.positional, banking_app_repository: $repository,
         nginx_canary_promote: ($promote != "false")}
        + if env.SYNTHETIC_TOKEN then {banking_app_synthetic_token: env.SYNTHETIC_TOKEN} else {} end
        + if $weights == "" then {} else {nginx_canary_steps: "[\($weights)]" | fromjson} end' \
        --args "$work"/cosign-*.pub >"$work/asked.json" || fail "WEIGHTS=$WEIGHTS are no numbers"
    arguments+=(--extra-vars "@$release" --extra-vars "@$work/asked.json")
fi
# The rest of the process tree has no use for them.
unset SSH_PRIVATE_KEY SSH_KNOWN_HOSTS SETTINGS SYNTHETIC_TOKEN

# Hosts that are not in the list are refused, whoever answers.
export ANSIBLE_HOST_KEY_CHECKING=True
export ANSIBLE_SSH_ARGS="-o UserKnownHostsFile=$work/known_hosts -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
echo "deploy: $playbook.yml on $TARGET"
.venv-ops/bin/ansible-playbook "ansible/playbooks/$playbook.yml" "${arguments[@]}"
