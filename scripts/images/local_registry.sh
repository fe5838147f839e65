#!/usr/bin/env bash
# Run an image registry on this machine, for rehearsal releases: local_registry.sh start|stop
# REGISTRY_DIR=var/registry stores the images, REGISTRY_PORT=5000 is the port on loopback, REGISTRY_HTPASSWD=file names the
# users and bcrypt hashes of their passwords (default: no authentication). `start` prints the address.
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=$(realpath -m "${REGISTRY_DIR:-${VAR_DIR:-var}/registry}")
address=127.0.0.1:${REGISTRY_PORT:-5000}
pid_file=$folder/registry.pid

fail() {
    echo "registry: $*" >&2
    exit 1
}

running() {
    [ -f "$pid_file" ] && grep -qs docker-registry "/proc/$(cat "$pid_file")/comm"
}

listening() {
    (exec 3<>"/dev/tcp/${address%:*}/${address#*:}") 2>/dev/null
}

start() {
    if ! running; then
        ! listening || fail "$address is in use; choose another port: REGISTRY_PORT=$((${address#*:} + 1))"
        scripts/local/ensure_packages.sh docker-registry
        mkdir -p "$folder/images"
        cat >"$folder/registry.yml" <<END
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: "$folder/images"}, delete: {enabled: true}}
http: {addr: "$address"}
END
        [ -z "${REGISTRY_HTPASSWD-}" ] ||
            echo "auth: {htpasswd: {realm: bank, path: \"$(realpath "$REGISTRY_HTPASSWD")\"}}" >>"$folder/registry.yml"
        setsid docker-registry serve "$folder/registry.yml" >"$folder/registry.log" 2>&1 </dev/null &
        echo $! >"$pid_file"
    fi
    for _ in $(seq 600); do
        kill -0 "$(cat "$pid_file")" 2>/dev/null || fail "docker-registry exited on start: $(tail -n 1 "$folder/registry.log")"
        if listening; then
            echo "$address"
            return
        fi
        sleep 0.1
    done
    fail "docker-registry does not listen on $address after a minute; see $folder/registry.log"
}

stop() {
    if running; then
        kill "$(cat "$pid_file")"
        while running; do sleep 0.1; done
    fi
    rm -f "$pid_file"
}

case ${1-} in
    start | stop) "$1" ;;
    *)
        echo "usage: local_registry.sh start|stop" >&2
        exit 2
        ;;
esac
