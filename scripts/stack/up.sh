#!/usr/bin/env bash
# Start the whole platform on Docker, or update a running one, and wait until it is healthy.
# IMAGES=registry|offline selects the base images (default: the registry if it is reachable), BUILD=0 uses the existing
# service images, SWARM=1 deploys to Docker Swarm. More variables are in .env.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Compose's progress is written to a log file.
export COMPOSE_ANSI=never
timeout_seconds=300
probe_seconds=10
registry_timed_out=

# shellcheck source=scripts/lib/progress.sh
. scripts/lib/progress.sh
steps=6
[ "${BUILD-}" != 0 ] || steps=$((steps - 1))
[ "${SWARM-}" != 1 ] || steps=$((steps - 1))

fail() {
    failed up "$*"
    exit 1
}

base_variables=({PYTHON,POSTGRES,NATS,NGINX,PROMETHEUS,ALERTMANAGER,NGINX_EXPORTER,POSTGRES_EXPORTER,NODE_EXPORTER,BLACKBOX_EXPORTER}_IMAGE)
# Images of the profile `observability`, which have no offline variant.
registry_variables=({GRAFANA,LOKI,ALLOY,TEMPO}_IMAGE)
# Variables set in the shell take precedence over the selection below.
read -ra open_variables <<<"$(comm -23 <(printf '%s\n' "${base_variables[@]}" | sort) <(compgen -e | sort) | paste -sd ' ')"

shell_profiles=${COMPOSE_PROFILES-none}
shell_traces=${OTEL_EXPORTER_OTLP_ENDPOINT-none}
# Replica counts set in the shell.
read -ra shell_replicas <<<"$(compgen -e | grep -x '[A-Z]*_SERVICE_REPLICAS' | paste -sd ' ' || true)"

# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh

# Of .env, var/docker/stack.env and the shell. Only here: stopping or rolling back has to work with any .env.
mapfile -t names < <(compgen -e)
old_names=$(python3 -m shared.runtime.renamed_settings "${names[@]}" 2>&1) || fail "${old_names//$'\n'/; }"

# Print the containers of the stack as `SERVICE STATE STATUS` lines.
containers() {
    docker ps --all --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
        --format '{{.Label "com.docker.compose.service"}} {{.State}} {{.Status}}'
}

# Print the containers that are neither healthy nor successfully completed.
unfinished() {
    containers | grep -vE ' running .*\(healthy\)$| exited Exited \(0\)' || true
}

all_present() {
    local name
    for name in "${base_variables[@]}" "${registry_variables[@]}"; do
        docker image inspect "${!name}" >/dev/null 2>&1 || return 1
    done
}

# select_images FILE: use the base images that the file names.
select_images() {
    unset "${open_variables[@]}"
    read_env "$1"
}

# Indent the output of a called script below this one's.
indent() {
    sed -u 's/^/              /'
}

use_offline_images() {
    select_images docker/offline/images.env
    scripts/images/build-offline-images.sh | indent
}

# Select the registry if it answers, however slowly, and Debian packages only if it is unreachable.
probe_registry() {
    local answer status=0
    answer=$(timeout "$probe_seconds" docker buildx imagetools inspect "$PYTHON_IMAGE" 2>&1) || status=$?
    # A registry that was too slow once is asked again by the next run.
    [ "$status" -ne 124 ] || registry_timed_out=1
    if [ "$status" -eq 0 ]; then
        info "base images: from the registry"
    elif [[ ${answer,,} =~ (too\ ?many|unauthorized|denied|(^|[^0-9a-f])(401|403|429|50[0-9])([^0-9a-f]|$)) ]]; then
        fail "the registry of $PYTHON_IMAGE rejected the request: $(tail -n 1 <<<"$answer" | cut -c 1-200); log in (docker" \
            "login) or try again later, or build the base images from Debian packages: IMAGES=offline make up"
    elif [ -z "$(debian_mirror)" ]; then
        fail "the registry of $PYTHON_IMAGE did not answer within $probe_seconds s, and this machine has no Debian mirror" \
            "to build the base images; check the network, or name one: IMAGES=offline DEBIAN_MIRROR=http://… make up"
    else
        info "base images: from Debian packages, because the registry of $PYTHON_IMAGE is unreachable"
        IMAGES=offline
    fi
}

# Print the mirror that apt uses on this machine, nothing on other distributions than Debian.
debian_mirror() {
    # apt expands it, not the shell.
    # shellcheck disable=SC2016
    echo "${DEBIAN_MIRROR-$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' 2>/dev/null)}"
}

choose_images() {
    case ${IMAGES-} in
        offline) info "base images: from Debian packages (IMAGES=offline)" ;;
        registry)
            info "base images: from the registry (IMAGES=registry)"
            select_images .env
            ;;
        '')
            if [ -n "${REGISTRY_TIMED_OUT-}" ]; then
                select_images .env
                probe_registry
            elif [[ $PYTHON_IMAGE == bank-offline/* ]]; then
                info "base images: from Debian packages, as in the last run (IMAGES=registry to change)"
                IMAGES=offline
            elif all_present; then
                info "base images: from the registry, all present"
            else
                probe_registry
            fi
            ;;
        *) fail "IMAGES=$IMAGES is invalid; use registry or offline" ;;
    esac
    [ "${IMAGES-}" != offline ] || use_offline_images
}

# Without a registry, the profile `observability` is disabled unless the shell sets COMPOSE_PROFILES.
choose_profiles() {
    if [ "$shell_profiles" != none ]; then
        export COMPOSE_PROFILES=$shell_profiles
    elif [ "${IMAGES-}" = offline ]; then
        export COMPOSE_PROFILES=
        info "Grafana, Loki, Alloy and Tempo are disabled: their images are only available from a registry"
    else
        unset COMPOSE_PROFILES
        read_env .env
    fi
    if [ "$shell_traces" != none ]; then
        export OTEL_EXPORTER_OTLP_ENDPOINT=$shell_traces
    elif [ -z "$COMPOSE_PROFILES" ]; then
        export OTEL_EXPORTER_OTLP_ENDPOINT=
    else
        unset OTEL_EXPORTER_OTLP_ENDPOINT
        read_env .env
    fi
}

# Save the values that differ from .env for later commands (make ps, scripts/stack/compose.sh, the next make up), except
# derived ones.
save_choices() {
    local name
    for name in "${base_variables[@]}" "${registry_variables[@]}" {ACCOUNT,TRANSACTION,AUTOSCALE,ROLLOUT}_SERVICE_IMAGE \
        COMPOSE_PROFILES OTEL_EXPORTER_OTLP_ENDPOINT COMPOSE_PROJECT_NAME {BANK,GRAFANA}_{ADDRESS,PORT} AUTH_{ISSUER,AUDIENCE} \
        TLS TLS_CERTIFICATES NGINX_TLS_{CERTIFICATE,KEY} {SLACK_WEBHOOK,DEAD_MANS_SWITCH}_URL_FILE; do
        [[ " ${derived[*]} " == *" $name "* ]] || grep -qxF "$name=${!name}" .env || env_line "$name"
    done >"$selected_env"
    [ -z "$registry_timed_out" ] || echo "REGISTRY_TIMED_OUT=1" >>"$selected_env"
}

# check_port SERVICE PREFIX: fail if another process uses PREFIX_PORT on PREFIX_ADDRESS.
check_port() {
    local address=$2_ADDRESS port=$2_PORT
    containers | grep "^$1 running" >/dev/null && return
    if (exec 3<>"/dev/tcp/${!address}/${!port}") 2>/dev/null; then
        fail "port ${!port} is in use on ${!address}; free it, or choose another one: $port=$((${!port} + 1)) make up"
    fi
}

# Fail if there is a database whose passwords are lost: new ones would not open it.
check_secrets() {
    [ ! -f "$VAR_DIR/docker/secrets/postgres_password" ] || return 0
    if docker volume inspect "${COMPOSE_PROJECT_NAME}_postgres" >/dev/null 2>&1; then
        fail "found the database of an earlier stack (volume ${COMPOSE_PROJECT_NAME}_postgres), but not its passwords in" \
            "$VAR_DIR/docker/secrets; restore them, or delete the data: make down VOLUMES=1"
    fi
}

start() {
    local log name service running scales=()
    log=$(mktemp)
    for name in ACCOUNT TRANSACTION; do
        service=${name,,}-service
        running=$(containers | grep -c "^$service running" || true)
        # Keep the replica count of the autoscaler.
        [[ $running == 0 || " ${shell_replicas[*]} " == *" ${name}_SERVICE_REPLICAS "* ]] || scales+=(--scale "$service=$running")
    done
    # The autoscaler must not add replicas of the old version; it starts again after the services.
    docker compose stop autoscale-service >"$log" 2>&1 || true
    up() {
        docker compose up --detach --remove-orphans --quiet-pull "${scales[@]}" >"$log" 2>&1
    }
    if ! with_spinner "starting containers" up; then
        tail -n 8 "$log" | sed 's/^/    /' >&2
        rm -f "$log"
        print_diagnostics "$(containers | grep -E ' exited Exited \([1-9]| (unhealthy|restarting)|\(unhealthy\)' || true)"
        fail "docker compose could not start the stack, see the output above"
    fi
    rm -f "$log"
}

# Print the last log lines of the services in `SERVICE STATE STATUS` lines.
print_diagnostics() {
    local service
    cut -d ' ' -f 1 <<<"$1" | sort -u | while read -r service; do
        [ -z "$service" ] || docker compose logs --no-color --tail 8 "$service" 2>&1 | sed 's/\x1b\[[0-9]*K//; s/^/    /' | cut -c 1-240 >&2
    done
}

wait_healthy() {
    local waiting previous='' deadline=$((SECONDS + timeout_seconds))
    while waiting=$(unfinished) && [ -n "$waiting" ]; do
        if [ "$SECONDS" -gt "$deadline" ]; then
            print_diagnostics "$waiting"
            fail "not healthy after $timeout_seconds s: $(cut -d ' ' -f 1 <<<"$waiting" | sort -u | paste -sd ' ')"
        fi
        waiting=$(cut -d ' ' -f 1 <<<"$waiting" | sort -u | paste -sd ' ')
        [ "$waiting" = "$previous" ] || info "waiting for $waiting"
        previous=$waiting
        sleep 0.5
    done
}

# reload SERVICE FOLDERS COMMAND …: reload a running service if its files changed since the last time; FOLDERS has one
# folder per line.
reload() {
    local service=$1 folders container current loaded output state_file=$VAR_DIR/docker/$1.loaded
    mapfile -t folders <<<"$2"
    shift 2
    container=$(docker compose ps --quiet "$service")
    current=$container-$(find "${folders[@]}" -type f -print0 | sort -z | xargs -0 cat | sha256sum)
    loaded=$(cat "$state_file" 2>/dev/null || true)
    # A new container has just read the current files.
    if [[ $loaded == "$container"-* ]] && [ "$current" != "$loaded" ]; then
        if ! output=$(docker compose exec -T "$service" "$@" 2>&1); then
            print_diagnostics "$service"
            fail "$service rejected its new configuration and keeps the old one: $output"
        fi
        info "$service reloaded its configuration"
    fi
    echo "$current" >"$state_file"
}

step "Docker and Python"
scripts/local/ensure_docker.sh | while read -r line; do info "$line"; done
check_port nginx BANK
check_secrets
[ "${SWARM-}" = 1 ] || no_subnets=$(python3 scripts/stack/address_pools.py "$COMPOSE_PROJECT_NAME" 2>&1) || fail "$no_subnets"
scripts/local/bootstrap.sh run
step "base images"
choose_images
choose_profiles
[ -z "$COMPOSE_PROFILES" ] || check_port grafana GRAFANA
step "secrets and configuration"
make_readable docker monitoring ops-page
.venv/bin/python -m scripts.stack.stack_files
unset {ACCOUNT,TRANSACTION}_SERVICE_{,CANARY_,PREVIOUS_}REVISION
read_env "$revisions_env"
if [ "${BUILD-}" != 0 ]; then
    step "service images"
    tag=${VERSION:-$(version)}
    scripts/build-images.sh | indent
    for name in account transaction autoscale rollout; do
        export "${name^^}_SERVICE_IMAGE=bank/$name-service:$tag"
    done
fi
save_choices
step "start $COMPOSE_PROJECT_NAME: $(docker compose config --services | sort | paste -sd ' ')"
if [ "${SWARM-}" = 1 ]; then
    scripts/stack/swarm_up.sh "${shell_replicas[@]}"
else
    start
    step "wait until all services are healthy"
    wait_healthy
    reload nginx "$VAR_DIR/docker/nginx"$'\n'"$VAR_DIR/docker/tls" nginx -p /run/nginx/ -c /etc/nginx/bank/selected/nginx.conf -e stderr -s reload
    for entry in prometheus:9090 alertmanager:9093 blackbox-exporter:9115; do
        reload "${entry%:*}" "monitoring"$'\n'"$VAR_DIR/docker/prometheus" wget -q -O - --post-data= "http://127.0.0.1:${entry#*:}/-/reload"
    done
fi
scripts/stack/prune_revisions.sh "$VAR_DIR/docker/revisions" "$ACCOUNT_SERVICE_REVISION" "$TRANSACTION_SERVICE_REVISION" >/dev/null
scheme=http
[ -z "$NGINX_TLS_CERTIFICATE" ] || scheme=https
url=$scheme://$BANK_ADDRESS:$BANK_PORT
[ -n "$SLACK_WEBHOOK_URL_FILE" ] || info "warning: no alert receiver configured (set SLACK_WEBHOOK_URL_FILE)"
demo="make demo"
[ "$url" = http://127.0.0.1:8080 ] || demo="BASE_URL=$url $demo"
[ "$TLS" != 1 ] || demo="SSL_CERT_FILE=$TLS_CERTIFICATES/ca.crt $demo"
grafana=
[ -z "$COMPOSE_PROFILES" ] || grafana="
  Grafana                   http://$GRAFANA_ADDRESS:$GRAFANA_PORT (admin; the password is in $VAR_DIR/docker/secrets/grafana_admin_password)"
cat <<END

  Operations page           $url/
  API                       $url/api/v1
  account-service docs      $url/docs/account-service/
  transaction-service docs  $url/docs/transaction-service/$grafana

$demo runs a demo; make token SUB=alice prints a token; make ps and make logs [SERVICE=nginx] show state and logs.
make down stops the stack and keeps the data; make down VOLUMES=1 removes the data as well.

END
finished up "all services are healthy; operations page at $url/"
