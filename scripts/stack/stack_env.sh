# shellcheck shell=bash
# Sourced by scripts that use docker-compose.yml: exports its variables. Variables of the shell take precedence, then the
# values selected by `make up` (VAR_DIR/docker/stack.env, revisions.env), then the defaults in .env.

# read_env FILE: export the variables of a file that are not set.
read_env() {
    local name value
    while IFS='=' read -r name value; do
        # The deployment quotes values that Compose would expand.
        [[ $value != \'*\' ]] || value=${value:1:-1}
        [ -n "${!name+set}" ] || export "$name=$value"
    done < <(grep -E '^[A-Z_]+=' "$1")
}

# env_line NAME: print an exported variable as a line of such a file; reject values with control characters.
env_line() {
    if [[ ${!1} == *[[:cntrl:]]* ]]; then
        echo "$1: its value contains a line break or another control character" >&2
        return 1
    fi
    printf '%s=%s\n' "$1" "${!1}"
}

VAR_DIR=$(realpath -m "${VAR_DIR:-var}")
export VAR_DIR
selected_env=$VAR_DIR/docker/stack.env
revisions_env=$VAR_DIR/docker/revisions.env
for file in "$selected_env" "$revisions_env"; do
    [ ! -f "$file" ] || read_env "$file"
done
read_env .env
ROLLOUT_DIR=${ROLLOUT_DIR:-$VAR_DIR/docker/rollout}
export ROLLOUT_DIR
# derive NAME VALUE: export a variable that is empty or not set.
derived=()
derive() {
    [ -z "${!1-}" ] || return 0
    export "$1=$2"
    derived+=("$1")
}

# TLS=1 enables TLS for NGINX, PostgreSQL and NATS, with certificates of the lab unless others are configured.
if [ "$TLS" = 1 ]; then
    derive TLS_CERTIFICATES "$VAR_DIR/secrets/tls"
    derive NGINX_TLS_CERTIFICATE "$TLS_CERTIFICATES/nginx.crt"
    derive NGINX_TLS_KEY "$TLS_CERTIFICATES/nginx.key"
    export POSTGRES_TLS=on POSTGRES_SSLMODE=verify-full
fi

# make_readable FOLDER …: let the users of containers read mounted files that a checkout with a strict umask created.
make_readable() {
    find "$@" ! -type l \( ! -perm -044 -o -type d ! -perm -011 \) -exec chmod go+rX {} +
}

# Print the version of the working tree, which is the tag of its images.
version() {
    git describe --always --dirty 2>/dev/null || echo dev
}
