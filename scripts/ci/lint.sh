#!/usr/bin/env bash
# Run all checks and list the failed ones at the end: lint.sh [CHECK …] runs the checks whose names start with CHECK.
# If a tool is not available, its check fails in CI (CI=true); elsewhere it is skipped and listed at the end.
# The checks run in parallel, one per core; their output is printed in the order below.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
root=$PWD
PATH=$root/.tools:$root/.venv/bin:$PATH
# One cache for all runs, because they analyze the same libraries; one run at a time, because each service has a package
# `app`, and a run could read the other's.
export MYPY_CACHE_DIR=$root/.mypy_cache
mkdir -p "$MYPY_CACHE_DIR"
mypy=(flock "$MYPY_CACHE_DIR/lock" mypy)

only=("$@")
failed=()
skipped=()
# shellcheck source=scripts/lib/parallel.sh
. scripts/lib/parallel.sh

is_selected() {
    local name
    [ ${#only[@]} -gt 0 ] || return 0
    for name in "${only[@]}"; do
        [[ $1 != "$name"* ]] || return 0
    done
    return 1
}

check() {
    is_selected "$1" || return 0
    run_in_background "$@"
}

# check_with_tool TOOL COMMAND …: run a checker that scripts/local/ensure_tools.sh builds.
check_with_tool() {
    local tool=$1
    is_selected "$tool" || return 0
    if scripts/local/ensure_tools.sh "$tool"; then
        check "$@"
    elif [ "${CI-}" = true ]; then
        echo "lint: FAILED: $tool is not available, its check did not run" >&2
        failed+=("$tool (not available)")
    else
        skipped+=("$tool")
    fi
}

# Every service has a package `app`, so checkers that follow imports run once per service.
in_service() {
    local service=$1
    shift
    (cd "$service" && PYTHONPATH=$root MYPYPATH=$root "$@")
}

# Drills run rarely: find names and arguments that do not exist without running them. Types are not checked.
check_drills() {
    (cd integration-tests && MYPYPATH=$root:$root/load-tests "${mypy[@]}" --config-file "$root/pyproject.toml" \
        drills/*/*.py harness/*.py || true) |
        (! grep -E '^(drills|harness)/.* (has no attribute|is not defined|unexpected keyword argument|Too (many|few) arguments)')
}

# ansible-lint calls the ansible of the same environment; --offline downloads nothing.
check_ansible() {
    scripts/local/bootstrap.sh deploy && PATH=$root/.venv-ops/bin:$PATH ansible-lint --offline -q --strict ansible
}

mapfile -t services < <(find . -maxdepth 1 -name '*-service' -printf '%P\n' | sort)
mapfile -t scripts < <(find scripts load-tests docker ansible -name '*.sh' 2>/dev/null | sort)

check black black --check .
check flake8 flake8
check shellcheck shellcheck .ci/run "${scripts[@]}"
check hadolint hadolint "${services[@]/%//Dockerfile}" docker/offline/Dockerfile docker/cluster/Dockerfile
check yamllint yamllint --strict .
# actionlint also runs shellcheck on the scripts in workflows.
check_with_tool actionlint actionlint
check zizmor zizmor --offline --quiet --no-progress .github
check bandit bandit --quiet --recursive --configfile pyproject.toml shared scripts clients "${services[@]/%//app}"
check ansible-lint check_ansible
check "mypy (shared, scripts, dashboards, client)" "${mypy[@]}" -p shared -p scripts -p monitoring -p banking_client
check "pylint (shared, scripts, dashboards, client)" pylint shared scripts monitoring.dashboards clients/python/banking_client
check "mypy (drills)" check_drills
for service in "${services[@]}"; do
    check "mypy ($service)" in_service "$service" "${mypy[@]}" --config-file "$root/pyproject.toml" -p app
    check "pylint ($service)" in_service "$service" pylint --rcfile "$root/pyproject.toml" app
done

heading() {
    printf '== %s\n' "$1"
}

collect heading
failed+=("${unsuccessful[@]}")
[ ${#skipped[@]} -eq 0 ] || printf 'skipped (tool not available): %s\n' "${skipped[@]}" >&2
if [ ${#background_names[@]} -eq 0 ] && [ ${#failed[@]} -eq 0 ]; then
    echo "lint: no check of that name" >&2
    exit 2
fi
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed check: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo "no problems"
