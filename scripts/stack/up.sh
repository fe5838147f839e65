#!/usr/bin/env bash
# Start the whole platform on Docker and wait until it is healthy; once it runs, bring it to what this tree says.
# IMAGES=registry|offline says where the base images come from (default: tries the registry), BUILD=0 takes the
# services' images as they are, SWARM=1 deploys to the Swarm that this engine manages. More variables are in .env.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Compose's progress goes to a file here.
export COMPOSE_ANSI=never
patience=180
probe_seconds=10

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
# No stand-ins of these from Debian packages: they are there when the profile `observability` is on.
registry_variables=({GRAFANA,LOKI,ALLOY,TEMPO}_IMAGE)
# Those that the shell has set go before every choice made here.
read -ra open_variables <<<"$(comm -23 <(printf '%s\n' "${base_variables[@]}" | sort) <(compgen -e | sort) | paste -sd ' ')"

asked_profiles=${COMPOSE_PROFILES-none}
asked_traces=${OTEL_EXPORTER_OTLP_ENDPOINT-none}
# Numbers of replicas that the shell asks for.
read -ra asked_replicas <<<"$(compgen -e | grep -x '[A-Z]*_SERVICE_REPLICAS' | paste -sd ' ' || true)"

# shellcheck source=scripts/stack/stack_env.sh
. scripts/stack/stack_env.sh

# Containers of the stack as `SERVICE STATE STATUS` lines.
containers() {
    docker ps --all --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
        --format '{{.Label "com.docker.compose.service"}} {{.State}} {{.Status}}'
}

# What is not as it should be: neither healthy nor a one-shot that did its work.
unfinished() {
    containers | grep -vE ' running .*\(healthy\)$| exited Exited \(0\)' || true
}

all_present() {
    local name
    for name in "${base_variables[@]}" "${registry_variables[@]}"; do
        docker image inspect "${!name}" >/dev/null 2>&1 || return 1
    done
}

# take FILE: the names of base images that it has.
take() {
    unset "${open_variables[@]}"
    read_env "$1"
}

# The lines of a script that is called, below those of this one.
indented() {
    sed -u 's/^/              /'
}

use_offline_images() {
    take docker/offline/images.env
    scripts/images/build-offline-images.sh | indented
}

choose_images() {
    case ${IMAGES-} in
        offline) say "base images: from Debian packages (IMAGES=offline)" ;;
        registry)
            say "base images: from the registry (IMAGES=registry)"
            take .env
            ;;
        '')
            if [[ $PYTHON_IMAGE == bank-offline/* ]]; then
                say "base images: from Debian packages, as before (IMAGES=registry changes that)"
                IMAGES=offline
            elif all_present; then
                say "base images: from the registry, all here"
            elif timeout "$probe_seconds" docker buildx imagetools inspect "$PYTHON_IMAGE" >/dev/null 2>&1; then
                say "base images: from the registry, which answers"
            else
                say "base images: from Debian packages, because no registry answers for $PYTHON_IMAGE"
                IMAGES=offline
            fi
            ;;
        *) fail "IMAGES=$IMAGES: say registry or offline" ;;
    esac
    [ "${IMAGES-}" != offline ] || use_offline_images
}

# What only a registry has is left out without one, unless the shell asks for it.
choose_profiles() {
    if [ "$asked_profiles" != none ]; then
        export COMPOSE_PROFILES=$asked_profiles
    elif [ "${IMAGES-}" = offline ]; then
        export COMPOSE_PROFILES=
        say "without a registry there is no Grafana, Loki, Alloy or Tempo: Debian has no packages of them"
    else
        unset COMPOSE_PROFILES
        read_env .env
    fi
    if [ "$asked_traces" != none ]; then
        export OTEL_EXPORTER_OTLP_ENDPOINT=$asked_traces
    elif [ -z "$COMPOSE_PROFILES" ]; then
        export OTEL_EXPORTER_OTLP_ENDPOINT=
    else
        unset OTEL_EXPORTER_OTLP_ENDPOINT
        read_env .env
    fi
}

# What differs from .env and was not derived from it, and what follows may need again: `make ps`, `docker compose` by way of scripts/stack/compose.sh, the next `make up`.
remember() {
    local name
    for name in "${base_variables[@]}" "${registry_variables[@]}" {ACCOUNT,TRANSACTION,AUTOSCALE,ROLLOUT}_SERVICE_IMAGE \
        COMPOSE_PROFILES OTEL_EXPORTER_OTLP_ENDPOINT COMPOSE_PROJECT_NAME {BANK,GRAFANA}_{ADDRESS,PORT} AUTH_{ISSUER,AUDIENCE} \
        TLS TLS_CERTIFICATES NGINX_TLS_{CERTIFICATE,KEY} {SLACK_WEBHOOK,DEAD_MANS_SWITCH}_URL_FILE; do
        [[ " ${derived[*]} " == *" $name "* ]] || grep -qxF "$name=${!name}" .env || env_line "$name"
    done >"$chosen_env"
}

# check_port SERVICE PREFIX: the port of PREFIX_ADDRESS and PREFIX_PORT is the service's already, or nobody's.
check_port() {
    local address=$2_ADDRESS port=$2_PORT
    containers | grep "^$1 running" >/dev/null && return
    if (exec 3<>"/dev/tcp/${!address}/${!port}") 2>/dev/null; then
        fail "port ${!port} is in use on ${!address}; free it, or choose another one: $port=$((${!port} + 1)) make up"
    fi
}

# Without its passwords nobody gets into a database that is there already.
check_secrets() {
    [ ! -f "$VAR_DIR/docker/secrets/postgres_password" ] || return 0
    if docker volume inspect "${COMPOSE_PROJECT_NAME}_postgres" >/dev/null 2>&1; then
        fail "there is a database of an earlier stack (volume ${COMPOSE_PROJECT_NAME}_postgres), but its passwords are" \
            "not in $VAR_DIR/docker/secrets; put them back, or give up the data: make down VOLUMES=1"
    fi
}

start() {
    local log name service running scales=()
    log=$(mktemp)
    for name in ACCOUNT TRANSACTION; do
        service=${name,,}-service
        running=$(containers | grep -c "^$service running" || true)
        # As many as the autoscaler has chosen.
        [[ $running == 0 || " ${asked_replicas[*]} " == *" ${name}_SERVICE_REPLICAS "* ]] || scales+=(--scale "$service=$running")
    done
    # It must not copy what is being replaced; it starts again after the services.
    docker compose stop autoscale-service >"$log" 2>&1 || true
    up() {
        docker compose up --detach --remove-orphans --quiet-pull "${scales[@]}" >"$log" 2>&1
    }
    if ! patiently "containers start" up; then
        tail -n 8 "$log" | sed 's/^/    /' >&2
        rm -f "$log"
        explain "$(containers | grep -E ' exited Exited \([1-9]| (unhealthy|restarting)|\(unhealthy\)' || true)"
        fail "docker compose could not start the stack; the lines above say why"
    fi
    rm -f "$log"
}

# The last words of the services in `SERVICE STATE STATUS` lines.
explain() {
    local service
    cut -d ' ' -f 1 <<<"$1" | sort -u | while read -r service; do
        [ -z "$service" ] || docker compose logs --no-color --tail 8 "$service" 2>&1 | sed 's/\x1b\[[0-9]*K//; s/^/    /' | cut -c 1-240 >&2
    done
}

wait_healthy() {
    local waiting before='' deadline=$((SECONDS + patience))
    while waiting=$(unfinished) && [ -n "$waiting" ]; do
        if [ "$SECONDS" -gt "$deadline" ]; then
            explain "$waiting"
            fail "not healthy after $patience s: $(cut -d ' ' -f 1 <<<"$waiting" | sort -u | paste -sd ' ')"
        fi
        waiting=$(cut -d ' ' -f 1 <<<"$waiting" | sort -u | paste -sd ' ')
        [ "$waiting" = "$before" ] || say "waiting for $waiting"
        before=$waiting
        sleep 0.5
    done
}

# reload SERVICE FOLDERS COMMAND …: let a running service read its files again when they have changed since the last time;
# FOLDERS is one a line.
reload() {
    local service=$1 folders container now before answer known=$VAR_DIR/docker/$1.loaded
    mapfile -t folders <<<"$2"
    shift 2
    container=$(docker compose ps --quiet "$service")
    now=$container-$(find "${folders[@]}" -type f -print0 | sort -z | xargs -0 cat | sha256sum)
    before=$(cat "$known" 2>/dev/null || true)
    # A container that was not there the last time has just read them.
    if [[ $before == "$container"-* ]] && [ "$now" != "$before" ]; then
        if ! answer=$(docker compose exec -T "$service" "$@" 2>&1); then
            explain "$service"
            fail "$service goes on with its old configuration, because the new one is wrong: $answer"
        fi
        say "$service has read its configuration again"
    fi
    echo "$now" >"$known"
}

step "Docker and Python"
scripts/local/ensure_docker.sh | while read -r line; do say "$line"; done
check_port nginx BANK
check_secrets
scripts/local/bootstrap.sh run
step "base images"
choose_images
choose_profiles
[ -z "$COMPOSE_PROFILES" ] || check_port grafana GRAFANA
step "secrets and configuration"
.venv/bin/python -m scripts.stack.stack_files
if [ "${BUILD-}" != 0 ]; then
    step "images of the services"
    tag=${VERSION:-$(version)}
    scripts/build-images.sh | indented
    for name in account transaction autoscale rollout; do
        export "${name^^}_SERVICE_IMAGE=bank/$name-service:$tag"
    done
fi
remember
step "start of $COMPOSE_PROJECT_NAME: $(docker compose config --services | sort | paste -sd ' ')"
if [ "${SWARM-}" = 1 ]; then
    scripts/stack/swarm_up.sh "${asked_replicas[@]}"
else
    start
    step "wait until all are healthy"
    wait_healthy
    reload nginx "$VAR_DIR/docker/nginx"$'\n'"$VAR_DIR/docker/tls" nginx -p /run/nginx/ -c /etc/nginx/bank/selected/nginx.conf -e stderr -s reload
    for entry in prometheus:9090 alertmanager:9093 blackbox-exporter:9115; do
        reload "${entry%:*}" "monitoring"$'\n'"$VAR_DIR/docker/prometheus" wget -q -O - --post-data= "http://127.0.0.1:${entry#*:}/-/reload"
    done
fi
scheme=http
[ -z "$NGINX_TLS_CERTIFICATE" ] || scheme=https
url=$scheme://$BANK_ADDRESS:$BANK_PORT
[ -n "$SLACK_WEBHOOK_URL_FILE" ] || say "alerts are told to nobody: SLACK_WEBHOOK_URL_FILE is not set"
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

$demo shows money moving; make token SUB=alice prints a token; make ps, make logs [SERVICE=nginx] look inside.
make down stops it all and keeps the data, make down VOLUMES=1 removes the data as well.

END
finished up "all is healthy; operations page at $url/"
