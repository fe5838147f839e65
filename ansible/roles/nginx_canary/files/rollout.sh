#!/bin/bash
# A rollout, step by step, for whoever drives it; beside docker-compose.yml and .env of the stack.
#
#   rollout.sh status | renew ID | promoted ID | abort REASON | restored | begin - <REQUEST.json
#       what rollout-service is told; prints its state as JSON, ends with 3 where it refuses
#   rollout.sh replicas                  how many stable replicas run, by service, as JSON
#   rollout.sh carriers PERCENT          how many canaries serve so many clients as stable replicas would, as JSON
#   rollout.sh canaries                  start the canaries that the variables *_CANARY_* describe
#   rollout.sh provisioned ID            done once the canaries are ready and measured
#   rollout.sh carry ID PERCENT          renew, and start the canaries that such a share needs since stable has grown
#   rollout.sh bring ID SERVICE IMAGE    start-first: beside each replica of another image one of this image
#   rollout.sh previous                  start the pool that the variables *_PREVIOUS_* describe
#   rollout.sh drain ID SERVICE IMAGE    stop the replicas that are not of this image, one after the other
#   rollout.sh validate FILE             let NGINX check a configuration
#
# The last word of `provisioned`, `bring` and `drain` is `done` or `waiting`: say it again until it is done. Each call
# takes a few seconds and renews the lease, so that nothing goes on when the driver is gone. ID `-` is no rollout.
set -euo pipefail
cd "$(dirname "$0")"

refused=3
project=$(sed -n 's/^COMPOSE_PROJECT_NAME=//p' .env)

renew() {
    [ "$1" = - ] || operate renew "$1" >/dev/null
}

# containers SERVICE [FILTER …]: ids of its running containers.
containers() {
    local service=$1 filters=()
    shift
    [ $# -eq 0 ] || filters=("${@/#/--filter=}")
    docker ps --quiet --no-trunc --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$service" "${filters[@]}"
}

# Not by way of compose, which reads and checks the whole stack first: a rollback waits for this.
operate() {
    local container
    container=$(containers rollout-service)
    if [ -z "$container" ]; then
        echo "rollout-service does not run; start it: docker compose up --detach rollout-service (in $PWD)" >&2
        return 1
    fi
    # What a container prints, and how long it takes for that, is up to whoever is in it.
    # Releases up to 2026-11 call the module app.operate; one of them may be what runs.
    # shellcheck disable=SC2016  # the container's shell expands it
    timeout --foreground --kill-after=5 60 docker exec --interactive "$container" \
        sh -c 'if [ -e app/cli.py ]; then exec python -m app.cli "$@"; fi; exec python -m app.operate "$@"' cli "$@" |
        head --bytes=1000000
}

# by_digest IMAGE: an image is named by its digest, as root has recorded it, and by nothing else.
by_digest() {
    [[ $1 =~ ^[a-z0-9][A-Za-z0-9._:/-]{0,250}@sha256:[0-9a-f]{64}$ ]] && return
    echo "rollout.sh: this is no image reference with a digest" >&2
    return 1
}

# by_image SERVICE yes|no IMAGE [FILTER …]: those that are of an image, or that are not.
by_image() {
    local service=$1 of=$2 wanted container
    wanted=$(docker image inspect --format '{{.Id}}' "$3")
    shift 3
    for container in $(containers "$service" "$@"); do
        if [ "$(docker inspect --format '{{.Image}}' "$container")" = "$wanted" ]; then
            [ "$of" = no ] || echo "$container"
        else
            [ "$of" = yes ] || echo "$container"
        fi
    done
}

count() {
    wc --words <<<"$*"
}

variable() {
    local upper=${1^^}
    echo "${upper//-/_}_IMAGE"
}

provisioned() {
    local status=0
    renew "$1"
    operate provisioned "$1" >/dev/null || status=$?
    case $status in
        0) echo 'done' ;;
        "$refused") echo waiting ;;
        *) return "$status" ;;
    esac
}

bring() {
    local service=$2 image=$3 old new healthy
    by_digest "$image"
    renew "$1"
    old=$(by_image "$service" no "$image")
    new=$(by_image "$service" yes "$image")
    healthy=$(by_image "$service" yes "$image" health=healthy)
    if [ "$(count "$new")" -gt "$(count "$healthy")" ]; then
        echo waiting
    elif [ "$(count "$new")" -gt 0 ] && [ "$(count "$new")" -ge "$(count "$old")" ]; then
        echo 'done'
    else
        env "$(variable "$service")=$image" docker compose up --detach --no-deps --no-recreate --quiet-pull \
            --scale "$service=$(($(count "$old $new") + 1))" "$service" >&2
        echo waiting
    fi
}

drain() {
    local old new stopping=.draining-$2
    by_digest "$3"
    renew "$1"
    old=$(by_image "$2" no "$3")
    new=$(by_image "$2" yes "$3" health=healthy)
    # Whoever else takes replicas away: the service is not to be left without any.
    if [ "$(count "$new")" -lt "$(count "$old")" ] || [ -z "$new" ]; then
        echo "$2: $(count "$new") new replicas are healthy, beside $(count "$old") old ones; none is stopped" >&2
        return 1
    fi
    old=$(head -n 1 <<<"$old")
    if [ -z "$old" ]; then
        rm -f "$stopping"
        echo 'done'
        return
    fi
    # A replica that goes may take as long as its requests: stopped beside this, one at a time.
    if [ "$(cat "$stopping" 2>/dev/null || true)" != "$old" ]; then
        echo "$old" >"$stopping"
        # shellcheck disable=SC2016
        setsid sh -c 'docker stop "$1" && docker rm --volumes "$1"' sh "$old" >/dev/null 2>&1 </dev/null &
    fi
    echo waiting
}

validate() {
    local check="cat >/run/nginx/check.conf && exec nginx -t -q -p /run/nginx/ -c /run/nginx/check.conf -e stderr"
    if [ -n "$(containers nginx)" ]; then
        docker compose exec -T nginx sh -ec "$check" <"$1"
    else
        docker compose run --rm --no-deps -T --entrypoint sh nginx -ec "$check" <"$1"
    fi
}

stable() {
    count "$(containers "$1")"
}

# No canary gets more clients than a stable replica has beside it, or had before: it would look slower than it is.
carriers() {
    local replicas needed
    replicas=$(stable "$1")
    needed=$(((replicas * $2 + 99 - $2) / (100 - $2)))
    echo $((needed < replicas ? needed : replicas))
}

# by_service COMMAND [ARGUMENT …]: what it counts of each, as JSON.
by_service() {
    local service
    for service in account-service transaction-service; do
        printf '"%s": %d\n' "$service" "$("$1" "$service" "${@:2}")"
    done | paste -sd , | sed 's/.*/{&}/'
}

carry() {
    local service there needed
    operate renew "$1"
    for service in account-service transaction-service; do
        there=$(count "$(containers "$service-canary")")
        needed=$(carriers "$service" "$2")
        # The guard may have taken them back since: none is nobody's to add to.
        if [ "$there" -gt 0 ] && [ "$needed" -gt "$there" ]; then
            docker compose up --detach --no-deps --no-recreate --quiet-pull --scale "$service-canary=$needed" \
                "$service-canary" >&2
        fi
    done
}

up() {
    docker compose up --detach --no-deps --quiet-pull "account-service-$1" "transaction-service-$1" >&2
}

case "${1-} $#" in
    'status 1' | 'restored 1' | 'renew 2' | 'promoted 2' | 'abort 2' | 'begin 2') operate "$@" ;;
    'replicas 1') by_service stable ;;
    'carriers 2') by_service carriers "$2" ;;
    'canaries 1') up canary ;;
    'previous 1') up previous ;;
    'provisioned 2') provisioned "$2" ;;
    'carry 3') carry "$2" "$3" ;;
    'bring 4') bring "$2" "$3" "$4" ;;
    'drain 4') drain "$2" "$3" "$4" ;;
    'validate 2') validate "$2" ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
