#!/usr/bin/env bash
# Check everything, and say at the end which checks found something: lint.sh [CHECK …] runs those whose names begin so.
# A checker that cannot be had fails in CI (CI=true); elsewhere it is left out and named at the end.
# As many checks as there are cores run at once; what they print comes in the order below.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
root=$PWD
PATH=$root/.tools:$root/.venv/bin:$PATH
# One for all runs: most of what each reads is the same libraries.
export MYPY_CACHE_DIR=$root/.mypy_cache

only=("$@")
failed=()
left_out=()
# shellcheck source=scripts/lib/parallel.sh
. scripts/lib/parallel.sh

wanted() {
    local name
    [ ${#only[@]} -gt 0 ] || return 0
    for name in "${only[@]}"; do
        [[ $1 != "$name"* ]] || return 0
    done
    return 1
}

check() {
    wanted "$1" || return 0
    run_in_background "$@"
}

# check_with_tool TOOL COMMAND …: a checker that scripts/local/ensure_tools.sh makes.
check_with_tool() {
    local tool=$1
    wanted "$tool" || return 0
    if scripts/local/ensure_tools.sh "$tool"; then
        check "$@"
    elif [ "${CI-}" = true ]; then
        echo "lint: FAILED: $tool cannot be had, so nothing was checked with it" >&2
        failed+=("$tool (cannot be had)")
    else
        left_out+=("$tool")
    fi
}

# Each service has a package called `app`, so what follows imports needs a run of its own per service.
in_service() {
    local service=$1
    shift
    (cd "$service" && PYTHONPATH=$root MYPYPATH=$root "$@")
}

# Its own ansible is beside it, and nothing is fetched.
check_ansible() {
    scripts/local/bootstrap.sh deploy && PATH=$root/.venv-ops/bin:$PATH ansible-lint --offline -q --strict ansible
}

mapfile -t services < <(find . -maxdepth 1 -name '*-service' -printf '%P\n' | sort)
mapfile -t scripts < <(find scripts load-tests docker ansible -name '*.sh' 2>/dev/null | sort)

check black black --check .
check flake8 flake8
check shellcheck shellcheck .ci/run "${scripts[@]}"
check hadolint hadolint "${services[@]/%//Dockerfile}" docker/offline/Dockerfile
check yamllint yamllint --strict .
# It hands what the workflows run to shellcheck as well.
check_with_tool actionlint actionlint
check zizmor zizmor --offline --quiet --no-progress .github
check bandit bandit --quiet --recursive --configfile pyproject.toml shared scripts "${services[@]/%//app}"
check ansible-lint check_ansible
check "mypy (shared, scripts, dashboards)" mypy -p shared -p scripts -p monitoring
check "pylint (shared, scripts, dashboards)" pylint shared scripts monitoring.dashboards
for service in "${services[@]}"; do
    check "mypy ($service)" in_service "$service" mypy --config-file "$root/pyproject.toml" -p app
    check "pylint ($service)" in_service "$service" pylint --rcfile "$root/pyproject.toml" app
done

heading() {
    printf '== %s\n' "$1"
}

collect heading
failed+=("${unsuccessful[@]}")
[ ${#left_out[@]} -eq 0 ] || printf 'left out, because it cannot be had here: %s\n' "${left_out[@]}" >&2
if [ ${#background_names[@]} -eq 0 ] && [ ${#failed[@]} -eq 0 ]; then
    echo "lint: no check of that name ran" >&2
    exit 2
fi
if [ ${#failed[@]} -gt 0 ]; then
    printf 'found something: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo "all clean"
