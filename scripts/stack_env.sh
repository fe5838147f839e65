# shellcheck shell=bash
# Sourced by what works with docker-compose.yml: exports its variables. The shell's own go first, then what `make up`
# has chosen (VAR_DIR/docker/stack.env), then the defaults in .env.

# read_env FILE: export the variables of a file that are not set yet.
read_env() {
    local name value
    while IFS='=' read -r name value; do
        [ -n "${!name+set}" ] || export "$name=$value"
    done < <(grep -E '^[A-Z_]+=' "$1")
}

VAR_DIR=$(realpath -m "${VAR_DIR:-var}")
export VAR_DIR
chosen_env=$VAR_DIR/docker/stack.env
[ ! -f "$chosen_env" ] || read_env "$chosen_env"
read_env .env
ROLLOUT_DIR=${ROLLOUT_DIR:-$VAR_DIR/docker/rollout}
export ROLLOUT_DIR

# What this tree is called: the tag of its images.
version() {
    git describe --always --dirty 2>/dev/null || echo dev
}
