#!/usr/bin/env bash
# Check everything, and say at the end which checks found something.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$PWD
PATH=$root/.venv/bin:$PATH

failed=()
check() {
    local name=$1
    shift
    printf '== %s\n' "$name"
    "$@" || failed+=("$name")
}

# Each service has a package called `app`, so what follows imports needs a run of its own per service.
in_service() {
    local service=$1
    shift
    (cd "$service" && PYTHONPATH=$root MYPYPATH=$root "$@")
}

mapfile -t services < <(find . -maxdepth 1 -name '*-service' -printf '%P\n' | sort)
mapfile -t scripts < <(find scripts load-tests docker ansible -name '*.sh' 2>/dev/null | sort)

check black black --check --quiet .
check flake8 flake8
check shellcheck shellcheck .ci/run "${scripts[@]}"
check hadolint hadolint "${services[@]/%//Dockerfile}" docker/offline/Dockerfile
check yamllint yamllint --strict .
check bandit bandit --quiet --recursive --configfile pyproject.toml shared scripts "${services[@]/%//app}"
scripts/bootstrap.sh deploy || failed+=(ansible-lint)
# Its own ansible is beside it, and nothing is fetched.
check ansible-lint env "PATH=$root/.venv-ops/bin:$PATH" ansible-lint --offline --quiet --strict ansible
check "mypy (shared, scripts, dashboards)" mypy -p shared -p scripts -p monitoring
check "pylint (shared, scripts, dashboards)" pylint shared scripts monitoring.dashboards
for service in "${services[@]}"; do
    check "mypy ($service)" in_service "$service" mypy --config-file "$root/pyproject.toml" -p app
    check "pylint ($service)" in_service "$service" pylint --rcfile "$root/pyproject.toml" app
done

if [ ${#failed[@]} -gt 0 ]; then
    printf 'found something: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo "all clean"
