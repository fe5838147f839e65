#!/usr/bin/env bash
# Run test suites and report their results: run_tests.sh [test|unit|compose|ansible|integration|all] [pytest arguments …]
# SUITES="shared local" runs these instead; a folder of compose and ansible can be run alone: compose-bank.
# CHANGED=1 runs only those that the changes since the branch's merge base with develop can break.
# Each service has a package called `app`, so every suite is a pytest run of its own; as many run at once as there are
# cores, with the suites that start stacks in two queues: those on the composed stack, and the others. The last line is `N passed, N failed, N skipped`.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
root=$PWD
python=$root/.venv/bin/python
reports=$root/reports
# shellcheck source=scripts/lib/progress.sh
. scripts/lib/progress.sh
# shellcheck source=scripts/lib/parallel.sh
. scripts/lib/parallel.sh

# The longest first, so that none is left alone with the last core.
unit=(account-service transaction-service simulation scripts shared monitoring autoscale-service rollout-service)
every=("${unit[@]}" local compose ansible)
what=${1:-test}
[ $# -eq 0 ] || shift
case $what in
    test) suites=("${unit[@]}" local) ;;
    unit) suites=("${unit[@]}") ;;
    compose | ansible) suites=("$what") ;;
    integration) suites=(compose ansible) ;;
    all) suites=("${every[@]}") ;;
    *)
        echo "usage: run_tests.sh [test|unit|compose|ansible|integration|all] [pytest arguments …]" >&2
        exit 2
        ;;
esac
[ -z "${SUITES-}" ] || read -ra suites <<<"$SUITES"

# runs NAME …: whether a suite with one of these names, or a folder of one, is among those to run.
runs() {
    local name
    for name in "$@"; do
        [[ " ${suites[*]} " != *" $name"[\ -]* ]] || return 0
    done
    return 1
}

# Tests whose programs are missing skip, and the summary says why.
install_packages() {
    local package packages=(nginx postgresql nats-server prometheus)
    # The browser is large, and only the tests of the operations page use it.
    ! runs local compose || packages+=(chromium fonts-dejavu-core)
    for package in "${packages[@]}"; do
        scripts/local/ensure_packages.sh "$package" || true
    done
}

# Everything that takes minutes to install or build is there before the first test's time limit starts.
install() {
    say "installing what the tests need"
    scripts/local/bootstrap.sh dev &
    install_packages
    wait $! || return 1
    if runs scripts && [ "${CI-}" = true ]; then
        patiently "building gitleaks" scripts/local/ensure_tools.sh gitleaks || true
    fi
    if runs ansible; then
        patiently "installing Ansible" scripts/local/bootstrap.sh deploy || return 1
        patiently "building Cosign" scripts/release/cosign.sh version >/dev/null || true
    fi
}

install || exit 1
if [ -n "${CHANGED-}" ]; then
    selected=$("$python" -m scripts.ci.changed_suites "${suites[@]}") || exit 1
    read -ra suites <<<"$selected"
    if [ ${#suites[@]} -eq 0 ]; then
        echo "nothing changed since the merge base: no suite to run"
        exit
    fi
fi

mkdir -p "$reports"
rm -f "$reports"/*.xml "$reports"/*.failed "$reports"/.coverage* "$reports"/coverage-*.json "$reports"/summary.txt

# Some suites create hundreds of small databases: in memory, if there is room, so that nothing waits for a disk.
in_memory=()
room=$(df --output=avail --block-size=G /dev/shm 2>/dev/null | tr -dc 0-9)
[ "${room:-0}" -lt 6 ] || in_memory=(TMPDIR=/dev/shm)

run_suite() {
    local suite=$1 folder=$root tests=$1/tests coverage=() held=service.py status=0 environment=() began=$SECONDS
    shift
    case $suite in shared | *-service) environment=("${in_memory[@]}") ;; esac
    case $suite in
        *-service)
            folder=$root/$suite
            tests=tests
            # Where the rules are; of what acts by itself that is all of it.
            [[ $suite != autoscale-service && $suite != rollout-service ]] || held='*'
            coverage=(--cov=app --cov-report= "--cov-config=$root/pyproject.toml")
            ;;
        local | compose | ansible | simulation) tests=integration-tests/$suite ;;
        # A folder of those, on its own: with a stack, or a registry, of its own.
        compose-* | ansible-*) tests=integration-tests/${suite/-//} ;;
    esac
    (cd "$folder" && "${lower_priority[@]}" env "${environment[@]}" "PYTHONPATH=$root" "COVERAGE_FILE=$reports/.coverage.$suite" \
        "$python" -m pytest "$tests" "--junitxml=$reports/$suite.xml" "${coverage[@]}" "$@") || status=1
    [ ${#coverage[@]} -eq 0 ] ||
        (cd "$folder" && "$root/scripts/ci/coverage_gate.sh" "$reports/.coverage.$suite" "*/app/$held" 90 "$reports/coverage-$suite.json") || {
        echo "$suite: coverage of app/$held under 90 %"
        status=1
    }
    [ "$status" -eq 0 ] || touch "$reports/$suite.failed"
    say "$suite $([ "$status" -eq 0 ] && echo passed || echo FAILED) in $((SECONDS - began)) s" >&3
    return "$status"
}

# run_queue SUITE …: one after the other.
run_queue() {
    local suite
    for suite in "$@"; do
        heading "$suite"
        run_suite "$suite" "${arguments[@]}"
    done
}

run_beside() {
    # Where a stack runs as well, its latencies come first.
    [ "$stacks" -eq 0 ] || lower_priority=(nice -n 10)
    run_suite "$1" "${arguments[@]}"
}

heading() {
    printf '\n== %s\n' "$1"
}

# The screen, for who finished; what suites print is kept until they have.
exec 3>&1
lower_priority=()
arguments=("$@")
steps=${#suites[@]}
composed=()
others=()
beside=()
for suite in "${suites[@]}"; do
    case $suite in
        compose*) composed+=("$suite") ;;
        local | ansible*) others+=("$suite") ;;
        *) beside+=("$suite") ;;
    esac
done
stacks=$((${#composed[@]} + ${#others[@]}))
if [ ${#suites[@]} -eq "$stacks" ] && { [ ${#composed[@]} -eq 0 ] || [ ${#others[@]} -eq 0 ]; }; then
    # Nothing else prints, so whoever waits can read along.
    run_queue "${suites[@]}"
else
    # Two stacks wait half of their time, for starts, scrapes and leases.
    [ ${#composed[@]} -eq 0 ] || [ ${#others[@]} -eq 0 ] || max_parallel=$((max_parallel + 1))
    [ ${#composed[@]} -eq 0 ] || run_in_background "composed stack" run_queue "${composed[@]}"
    [ ${#others[@]} -eq 0 ] || run_in_background "other stacks" run_queue "${others[@]}"
    for suite in "${beside[@]}"; do run_in_background "$suite" run_beside "$suite"; done
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
left_out=()
for suite in "${every[@]}"; do
    runs "$suite" || left_out+=("$suite")
done
"$python" -m scripts.ci.sum_junit --left-out "${left_out[*]}" "${suites[@]/#/$reports/}" | tee "$reports/summary.txt" || exit 1
[ ${#failed[@]} -eq 0 ]
