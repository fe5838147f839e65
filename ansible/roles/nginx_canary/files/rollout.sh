#!/bin/bash
# Commands of a rollout driver, to be run next to docker-compose.yml and .env of the stack.
#
# These call rollout-service, print the state of the rollout as JSON, and exit with 3 if rollout-service rejects the call:
#   rollout.sh status                         change nothing
#   rollout.sh begin - <REQUEST.json          start a rollout
#   rollout.sh renew ID                       renew the lease
#   rollout.sh approve ID WEIGHT BY           approve the step that waits at a weight
#   rollout.sh promoted ID                    report that enough stable replicas run the new version
#   rollout.sh abort ID REASON                roll back
#   rollout.sh restored ID                    report that the stable replicas run the previous version again
# These read or change the replicas:
#   rollout.sh replicas                       print the number of stable replicas by service as JSON
#   rollout.sh canary_count WEIGHT [baseline] print the number of canaries that this weight needs by service as JSON,
#                                             and with `baseline` those that it needs beside a baseline
#   rollout.sh start_canaries ID [baseline]   start the canaries that the variables *_CANARY_* define, and with `baseline`
#                                             a new replica of the running version, which they are compared with
#   rollout.sh provisioned ID                 ask rollout-service whether the canaries are ready and scraped
#   rollout.sh ensure_canaries ID WEIGHT      renew the lease, and add the canaries that this weight needs by now
#   rollout.sh scale_up ID SERVICE IMAGE REVISION
#                                             start-first: add a replica of this version for each one of another version
#   rollout.sh start_previous ID              start the replicas of the previous version that the variables *_PREVIOUS_* define
#   rollout.sh drain ID SERVICE IMAGE REVISION
#                                             stop the replicas of other versions, one after the other
#   rollout.sh restore_scale_up | restore_drain ID SERVICE IMAGE REVISION
#                                             the same for the previous version, in a rollback after a promotion
#   rollout.sh validate FILE                  check an NGINX configuration
#
# ID is the rollout's, as `begin` prints it: commands for another rollout than the current one are rejected with exit code
# 3 and change nothing. A person may use `current`.
# A version is an image and the revision of a configuration (scripts/stack/revisions.py); an empty REVISION is any.
# `provisioned`, `scale_up` and `drain` print `done` or `waiting`: repeat them until they are done. Each call takes a few
# seconds and renews the lease; without further calls the lease expires, and rollout-service rolls back.
set -euo pipefail
cd "$(dirname "$0")"

rejected=3
# Interval of renewals while a command runs, well below the duration of the lease.
renew_seconds=5
project=$(sed -n 's/^COMPOSE_PROJECT_NAME=//p' .env)

# with_lease CHECK ID COMMAND …: run a command while rollout-service accepts CHECK for this rollout, which renews the lease.
# Replicas are changed by one command at a time: one that was interrupted for long checks again before it continues.
with_lease() {
    local work checked status
    exec 9>.rollout.lock
    if ! flock --timeout 60 9; then
        echo "another command of rollout.sh has been running for a minute in $PWD" >&2
        return 1
    fi
    rollout_service "$1" "$2" >/dev/null
    "${@:3}" &
    work=$! checked=$SECONDS
    while kill -0 "$work" 2>/dev/null; do
        sleep 0.2
        [ $((SECONDS - checked)) -ge "$renew_seconds" ] || continue
        checked=$SECONDS
        rollout_service "$1" "$2" >/dev/null && continue
        status=$?
        # Docker may be busy for a while: only a rejection ends the command, otherwise the lease decides.
        [ "$status" -eq "$rejected" ] || continue
        kill "$work" 2>/dev/null || true
        return "$status"
    done
    wait "$work"
}

# containers SERVICE [FILTER …]: print the ids of the running containers of a service.
containers() {
    local service=$1 filters=()
    shift
    [ $# -eq 0 ] || filters=("${@/#/--filter=}")
    docker ps --quiet --no-trunc --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$service" --filter label=com.docker.compose.oneoff=False "${filters[@]}"
}

# Without Compose, which first parses the whole stack: this would delay a rollback.
rollout_service() {
    local container
    container=$(containers rollout-service)
    if [ -z "$container" ]; then
        echo "rollout-service is not running; start it: docker compose up --detach rollout-service (in $PWD)" >&2
        return 1
    fi
    # A compromised container could print endless output or hang.
    # The running container may be of an earlier release, whose commands have no ID, or are in app.operate.
    # shellcheck disable=SC2016  # the container's shell expands it
    timeout --foreground --kill-after=5 60 docker exec --interactive "$container" sh -c '
        if grep -qs "abort ID" app/cli.py; then exec python -m app.cli "$@"; fi
        case $1 in abort) set -- abort "$3" ;; restored) set -- restored ;; restoring) set -- status ;; esac
        if [ -e app/cli.py ]; then exec python -m app.cli "$@"; fi
        exec python -m app.operate "$@"' cli "$@" |
        head --bytes=1000000
}

# require_version IMAGE REVISION: fail unless the image reference has a digest, and the revision is one or empty.
require_version() {
    [[ $1 =~ ^[a-z0-9][A-Za-z0-9._:/-]{0,250}@sha256:[0-9a-f]{64}$ && $2 =~ ^([0-9a-f]{64})?$ ]] && return
    echo "rollout.sh: not an image reference with a digest, and the revision of a configuration" >&2
    return 1
}

# containers_by_version SERVICE this|other IMAGE REVISION [FILTER …]: print the containers of this version, or of others.
containers_by_version() {
    local service=$1 version=$2 revision=$4 expected container actual
    expected="$(docker image inspect --format '{{.Id}}' "$3") $revision"
    shift 4
    for container in $(containers "$service" "$@"); do
        actual=$(docker inspect --format '{{.Image}} {{index .Config.Labels "banking.configuration"}}' "$container")
        [ -n "$revision" ] || actual="${actual%% *} "
        if [ "$actual" = "$expected" ]; then
            [ "$version" = other ] || echo "$container"
        else
            [ "$version" = this ] || echo "$container"
        fi
    done
}

count_words() {
    wc --words <<<"$*"
}

# with_version SERVICE IMAGE REVISION COMMAND …: run a command with the variables of docker-compose.yml for this version.
with_version() {
    local name=${1^^} variables
    name=${name//-/_}
    variables=("${name}_IMAGE=$2")
    [ -z "$3" ] || variables+=("${name}_REVISION=$3")
    env "${variables[@]}" "${@:4}"
}

provisioned() {
    local status=0
    rollout_service renew "$1" >/dev/null
    rollout_service provisioned "$1" >/dev/null || status=$?
    case $status in
        0) echo 'done' ;;
        "$rejected") echo waiting ;;
        *) return "$status" ;;
    esac
}

scale_up() {
    local service=$1 image=$2 revision=$3 old new healthy
    require_version "$image" "$revision"
    old=$(containers_by_version "$service" other "$image" "$revision")
    new=$(containers_by_version "$service" this "$image" "$revision")
    healthy=$(containers_by_version "$service" this "$image" "$revision" health=healthy)
    if [ "$(count_words "$new")" -gt "$(count_words "$healthy")" ]; then
        echo waiting
    elif [ "$(count_words "$new")" -gt 0 ] && [ "$(count_words "$new")" -ge "$(count_words "$old")" ]; then
        echo 'done'
    else
        with_version "$service" "$image" "$revision" docker compose up --detach --no-deps --no-recreate --quiet-pull \
            --scale "$service=$(($(count_words "$old $new") + 1))" "$service" >&2
        echo waiting
    fi
}

drain() {
    local service=$1 image=$2 revision=$3 old new stopping=.draining-$1
    require_version "$image" "$revision"
    old=$(containers_by_version "$service" other "$image" "$revision")
    new=$(containers_by_version "$service" this "$image" "$revision" health=healthy)
    # Replicas may be removed by others as well: never leave the service without healthy ones.
    if [ "$(count_words "$new")" -lt "$(count_words "$old")" ] || [ -z "$new" ]; then
        echo "$service: not draining, only $(count_words "$new") healthy new replicas for $(count_words "$old") old ones" >&2
        return 1
    fi
    old=$(head -n 1 <<<"$old")
    if [ -z "$old" ]; then
        rm -f "$stopping"
        echo 'done'
        return
    fi
    # A stopping replica first finishes its requests in flight, so it is stopped in the background; one at a time.
    if [ "$(cat "$stopping" 2>/dev/null || true)" != "$old" ]; then
        echo "$old" >"$stopping"
        # shellcheck disable=SC2016
        setsid sh -c 'docker stop "$1" && docker rm --volumes "$1"' sh "$old" >/dev/null 2>&1 </dev/null 9>&- &
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

stable_replicas() {
    count_words "$(containers "$1")"
}

# canary_count SERVICE WEIGHT [baseline]: no canary gets more clients than a replica that serves with stable, now or before
# the rollout: latencies would not be comparable. The baseline serves with stable.
canary_count() {
    local serving needed
    serving=$(stable_replicas "$1")
    if [ "${3-}" = baseline ] || [ -n "$(containers "$1-baseline")" ]; then
        serving=$((serving + 1))
    fi
    needed=$(((serving * $2 + 99 - $2) / (100 - $2)))
    echo $((needed < serving ? needed : serving))
}

# json_by_service COMMAND [ARGUMENT …]: print the count of each service as JSON.
json_by_service() {
    local service
    for service in account-service transaction-service; do
        printf '"%s": %d\n' "$service" "$("$1" "$service" "${@:2}")"
    done | paste -sd , | sed 's/.*/{&}/'
}

ensure_canaries() {
    local service running needed
    rollout_service renew "$1"
    for service in account-service transaction-service; do
        running=$(count_words "$(containers "$service-canary")")
        needed=$(canary_count "$service" "$2")
        # Without canaries, rollout-service has rolled back: do not start new ones.
        if [ "$running" -gt 0 ] && [ "$needed" -gt "$running" ]; then
            with_lease renew "$1" docker compose up --detach --no-deps --no-recreate --quiet-pull \
                --scale "$service-canary=$needed" "$service-canary" >&2
        fi
    done
}

# start_tracks TRACK …: start the replicas of account-service and transaction-service on these tracks.
start_tracks() {
    local services=()
    for track; do services+=("account-service-$track" "transaction-service-$track"); done
    docker compose up --detach --no-deps --quiet-pull "${services[@]}" >&2
}

case "${1-} $#" in
    'status 1' | 'restored 2' | 'renew 2' | 'promoted 2' | 'abort 3' | 'approve 4' | 'begin 2') rollout_service "$@" ;;
    'replicas 1') json_by_service stable_replicas ;;
    'canary_count 2' | 'canary_count 3') json_by_service canary_count "${@:2}" ;;
    'start_canaries 2') with_lease renew "$2" start_tracks canary ;;
    'start_canaries 3') with_lease renew "$2" start_tracks canary "$3" ;;
    'start_previous 2') with_lease renew "$2" start_tracks previous ;;
    'provisioned 2') provisioned "$2" ;;
    'ensure_canaries 3') ensure_canaries "$2" "$3" ;;
    'scale_up 5') with_lease renew "$2" scale_up "$3" "$4" "$5" ;;
    'drain 5') with_lease renew "$2" drain "$3" "$4" "$5" ;;
    'restore_scale_up 5') with_lease restoring "$2" scale_up "$3" "$4" "$5" ;;
    'restore_drain 5') with_lease restoring "$2" drain "$3" "$4" "$5" ;;
    'validate 2') validate "$2" ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
