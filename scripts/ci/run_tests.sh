#!/usr/bin/env bash
# Run test suites and summarize their results: run_tests.sh [test|unit|compose|ansible|integration|all] [pytest arguments …]
# SUITES="shared local" selects suites; compose-bank selects the folder bank of the suite compose (the same for ansible).
# CHANGED=1 runs only the suites affected by the changes since the merge base with develop.
# Every service has a package `app`, so each suite is a separate pytest run. They run in parallel, one per core; suites
# that start stacks form two queues, the composed stack and the others. The last line is `N passed, N failed, N skipped`.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
root=$PWD
python=$root/.venv/bin/python
reports=$root/reports
# shellcheck source=scripts/lib/progress.sh
. scripts/lib/progress.sh
# shellcheck source=scripts/lib/parallel.sh
. scripts/lib/parallel.sh

# The longest suites first, so that all cores stay busy until the end.
unit=(account-service transaction-service simulation scripts shared monitoring autoscale-service rollout-service)
all_suites=("${unit[@]}" local compose ansible)
group=${1:-test}
[ $# -eq 0 ] || shift
case $group in
    test) suites=("${unit[@]}" local) ;;
    unit) suites=("${unit[@]}") ;;
    compose | ansible) suites=("$group") ;;
    integration) suites=(compose ansible) ;;
    all) suites=("${all_suites[@]}") ;;
    *)
        echo "usage: run_tests.sh [test|unit|compose|ansible|integration|all] [pytest arguments …]" >&2
        exit 2
        ;;
esac
[ -z "${SUITES-}" ] || read -ra suites <<<"$SUITES"

# is_selected NAME …: succeed if one of these suites, or a folder of one, is selected.
is_selected() {
    local name
    for name in "$@"; do
        [[ " ${suites[*]} " != *" $name"[\ -]* ]] || return 0
    done
    return 1
}

# Tests skip if a program is missing; the summary lists the reasons.
install_packages() {
    local package packages=(nginx postgresql nats-server prometheus)
    # The browser is large and only used by tests of the operations page.
    ! is_selected local compose || packages+=(chromium fonts-dejavu-core)
    for package in "${packages[@]}"; do
        scripts/local/ensure_packages.sh "$package" || true
    done
}

# Long installations and builds run in advance, because tests have time limits.
install() {
    info "installing dependencies of the tests"
    scripts/local/bootstrap.sh dev &
    install_packages
    wait $! || return 1
    if is_selected scripts && [ "${CI-}" = true ]; then
        with_spinner "building gitleaks" scripts/local/ensure_tools.sh gitleaks || true
    fi
    if is_selected ansible; then
        with_spinner "installing Ansible" scripts/local/bootstrap.sh deploy || return 1
        with_spinner "building Cosign" scripts/release/cosign.sh version >/dev/null || true
    fi
}

install || exit 1
if [ -n "${CHANGED-}" ]; then
    selected=$("$python" -m scripts.ci.changed_suites "${suites[@]}") || exit 1
    read -ra suites <<<"$selected"
    if [ ${#suites[@]} -eq 0 ]; then
        echo "no changes since the merge base: no suite to run"
        exit
    fi
fi

mkdir -p "$reports"
rm -f "$reports"/*.xml "$reports"/*.failed "$reports"/.coverage* "$reports"/coverage-*.json "$reports"/summary.txt

# Some suites create hundreds of small databases: keep them in memory if there is enough space.
in_memory=()
free_gigabytes=$(df --output=avail --block-size=G /dev/shm 2>/dev/null | tr -dc 0-9)
[ "${free_gigabytes:-0}" -lt 6 ] || in_memory=(TMPDIR=/dev/shm)

run_suite() {
    local suite=$1 folder=$root tests=$1/tests as_root=() coverage=() covered=service.py status=0 environment=() started=$SECONDS cpu
    shift
    case $suite in shared | *-service) environment=("${in_memory[@]}") ;; esac
    case $suite in
        *-service)
            folder=$root/$suite
            tests=tests
            # The coverage gate applies to service.py, in services that act autonomously to all files.
            [[ $suite != autoscale-service && $suite != rollout-service ]] || covered='*'
            # Measuring coverage takes more than a third of the CPU time, so `make test` leaves it to CI.
            [[ $group == test && ${CI-} != true ]] || coverage=(--cov=app --cov-report= "--cov-config=$root/pyproject.toml")
            ;;
        local | compose | ansible | simulation) tests=integration-tests/$suite ;;
        # One folder of such a suite, with a dedicated stack or registry.
        compose-* | ansible-*) tests=integration-tests/${suite/-//} ;;
    esac
    # Roles configure this machine as its root. Where that takes a password, their tests skip.
    case $suite in
        ansible*) [ "$(id -u)" -eq 0 ] || [ "${CI-}" != true ] || as_root=(sudo -n --preserve-env --set-home) ;;
    esac
    (cd "$folder" && "${lower_priority[@]}" "${as_root[@]}" env "PATH=$PATH" "${environment[@]}" "PYTHONPATH=$root" "COVERAGE_FILE=$reports/.coverage.$suite" \
        "$python" -m pytest "$tests" "--junitxml=$reports/$suite.xml" "${coverage[@]}" "$@"
        status=$?
        times >"$reports/$suite.times"
        exit "$status") || status=1
    [ ${#coverage[@]} -eq 0 ] ||
        (cd "$folder" && "$root/scripts/ci/coverage_gate.sh" "$reports/.coverage.$suite" "*/app/$covered" 90 "$reports/coverage-$suite.json") || {
        echo "$suite: coverage of app/$covered is below 90 %"
        status=1
    }
    [ "$status" -eq 0 ] || touch "$reports/$suite.failed"
    # The second line of `times`: CPU time of the processes that have ended, without servers and containers.
    cpu=$(awk -F '[ms ]+' 'NR == 2 {printf "%.0f", 60 * ($1 + $3) + $2 + $4}' "$reports/$suite.times")
    info "$suite $([ "$status" -eq 0 ] && echo passed || echo FAILED) in $((SECONDS - started)) s, $cpu s of CPU" >&3
    return "$status"
}

# run_queue SUITE …: run suites one after the other.
run_queue() {
    local suite
    for suite in "$@"; do
        heading "$suite"
        run_suite "$suite" "${arguments[@]}"
    done
}

run_alongside() {
    # Lower priority, so that suites do not slow down stacks whose latencies are tested; local starts such stacks itself.
    [ "$stacks" -eq 0 ] || [ "$1" = local ] || lower_priority=(nice -n 10)
    run_suite "$1" "${arguments[@]}"
}

heading() {
    printf '\n== %s\n' "$1"
}

# Results go directly to the terminal; the output of a suite is buffered until it has finished.
exec 3>&1
lower_priority=()
arguments=("$@")
steps=${#suites[@]}
composed=()
others=()
alongside=()
for suite in "${suites[@]}"; do
    case $suite in
        compose*) composed+=("$suite") ;;
        ansible*) others+=("$suite") ;;
        local) alongside=("$suite" "${alongside[@]}") ;;
        *) alongside+=("$suite") ;;
    esac
done
stacks=$((${#composed[@]} + ${#others[@]}))
if [[ ${#suites[@]} =~ ^(1|${#composed[@]}|${#others[@]})$ ]]; then
    # Nothing runs in parallel, so output is printed immediately.
    run_queue "${suites[@]}"
else
    # Two stacks are idle half of the time, waiting for starts, scrapes and leases.
    [ ${#composed[@]} -eq 0 ] || [ ${#others[@]} -eq 0 ] || max_parallel=$((max_parallel + 1))
    [ ${#composed[@]} -eq 0 ] || run_in_background "composed stack" run_queue "${composed[@]}"
    [ ${#others[@]} -eq 0 ] || run_in_background ansible run_queue "${others[@]}"
    for suite in "${alongside[@]}"; do run_in_background "$suite" run_alongside "$suite"; done
    collect heading
fi

failed=()
for suite in "${suites[@]}"; do
    [ ! -e "$reports/$suite.failed" ] || failed+=("$suite")
done
echo
if [ ${#failed[@]} -eq 0 ]; then
    finished tests "${#suites[@]} suites"
else
    failed tests "FAILED: $(printf '%s; ' "${failed[@]}")of ${#suites[@]} suites" 2>&1
fi
not_run=()
for suite in "${all_suites[@]}"; do
    is_selected "$suite" || not_run+=("$suite")
done
"$python" -m scripts.ci.sum_junit --not-run "${not_run[*]}" "${suites[@]/#/$reports/}" | tee "$reports/summary.txt" || exit 1
[ ${#failed[@]} -eq 0 ]
