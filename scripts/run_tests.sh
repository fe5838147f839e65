#!/usr/bin/env bash
# Run the test suites and add up their results: run_tests.sh [all|unit|docker] [pytest arguments …]
# SUITES="shared embedded" names other ones; the folders of docker and ansible can be asked for alone: docker-bank.
# Separate runs, because each service has a package called `app`; as many at once as there are cores, but those that need the
# machine for themselves. The last line is `N passed, N failed, N skipped`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$PWD
python=$root/.venv/bin/python
reports=$root/reports
# shellcheck source=scripts/progress.sh
. scripts/progress.sh
# shellcheck source=scripts/at_once.sh
. scripts/at_once.sh

what=${1:-all}
[ $# -eq 0 ] || shift
# The longest first, so that none is left alone with the last core.
suites=(account-service transaction-service rollout-service simulation shared scripts autoscale-service monitoring)
case $what in
    all) suites+=(embedded docker ansible) ;;
    docker) suites=(docker ansible) ;;
esac
[ -z "${SUITES-}" ] || read -ra suites <<<"$SUITES"

packages=(nginx postgresql nats-server prometheus)
# The browser is large, and for the operations page alone.
[[ " ${suites[*]} " != *" embedded "* && " ${suites[*]} " != *" docker"* ]] || packages+=(chromium fonts-dejavu-core)
# Tests whose programs cannot be had skip, with the reason in the summary of their run.
for package in "${packages[@]}"; do
    scripts/ensure_packages.sh "$package" || true
done

mkdir -p "$reports"
rm -f "$reports"/*.xml "$reports"/.coverage* "$reports"/coverage-*.json "$reports"/summary.txt

# Some suites have hundreds of small databases: in memory, if it has room, so that nothing waits for a disk.
in_memory=()
room=$(df --output=avail --block-size=G /dev/shm 2>/dev/null | tr -dc 0-9)
[ "${room:-0}" -lt 6 ] || in_memory=(TMPDIR=/dev/shm)

run_suite() {
    local suite=$1 folder=$root tests=$1/tests coverage=() held=service.py status=0 environment=()
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
        embedded | docker | ansible | simulation) tests=integration-tests/$suite ;;
        # A folder of those, on its own: with a stack, or a registry, of its own.
        docker-* | ansible-*) tests=integration-tests/${suite/-//} ;;
    esac
    (cd "$folder" && env "${environment[@]}" "PYTHONPATH=$root" "COVERAGE_FILE=$reports/.coverage.$suite" \
        "$python" -m pytest "$tests" "--junitxml=$reports/$suite.xml" "${coverage[@]}" "$@") || status=1
    [ ${#coverage[@]} -eq 0 ] ||
        (cd "$folder" && "$root/scripts/coverage_gate.sh" "$reports/.coverage.$suite" "*/app/$held" 90 "$reports/coverage-$suite.json") || {
        echo "$suite: coverage of app/$held under 90 %"
        status=1
    }
    return "$status"
}

heading() {
    echo
    step "$1"
}

steps=${#suites[@]}
alone=()
for suite in "${suites[@]}"; do
    case $suite in
        embedded | docker* | ansible*) alone+=("$suite") ;;
        *)
            begin "$suite" run_suite "$suite" "$@"
            say "$suite has begun"
            ;;
    esac
done
hear heading
failed=("${unsuccessful[@]}")
for suite in "${alone[@]}"; do
    heading "$suite"
    run_suite "$suite" "$@" || failed+=("$suite")
done

echo
if [ ${#failed[@]} -eq 0 ]; then
    finished tests "${#suites[@]} suites"
else
    failed tests "FAILED: $(printf '%s; ' "${failed[@]}")of ${#suites[@]} suites" 2>&1
fi
"$python" -m scripts.sum_junit "${suites[@]/#/$reports/}" | tee "$reports/summary.txt" || exit 1
[ ${#failed[@]} -eq 0 ]
